"""Members on the nodes of a Ray cluster: each in a process of its own, at a place that Ray gives it."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from etude.errors import ConfigurationError
from etude.extras import optional
from etude.hardware import usable_cores
from etude.sweeps.launchers import member_process, ray_place, travel
from etude.sweeps.launchers.base import Ending, Job, MemberLauncher
from etude.sweeps.launchers.ray_member import NO_PRUNING, RayMember

NODES_SECONDS = 2.0
"""Seconds for which it is taken that the cluster has the nodes that it had."""

CLOSE_SECONDS = 10.0
"""Seconds that members have to end when the launcher is closed."""


class RayLauncher(MemberLauncher):
    """Runs each member at a place on one node of a Ray cluster: so many CPUs and GPUs for each of its devices.

    Where the nodes share no disk with this process, a run's folder, and that of the run that it starts from, goes to the node
    and comes back: every now and then while the member runs, and when it ends, however it ends. Its path is the same there.
    A member whose node or worker dies is lost, and goes on elsewhere from what came back last.

    Args:
        address: `auto` for the cluster that this machine belongs to, `HOST:PORT`, `ray://HOST:PORT`; None: starts a Ray of
            its own on this machine.
        cpus: CPUs for each device of a member, and its threads.
        gpus: GPUs for each device; None: one where a node has any, otherwise none.
        slots: At most so many devices at a time; None: as many as the cluster has room for.
        shared: Whether nodes see the folder of the runs; None: each node is asked.

    Raises:
        ConfigurationError: If Ray is not installed, there is no cluster, or no node of it has room for a member.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int = 1,
        gpus: float | None = None,
        slots: int | None = None,
        shared: bool | None = None,
    ) -> None:
        for name, value, least in (("cpus", cpus, 1), ("gpus", gpus, 0), ("slots", slots, 1)):
            if value is not None and value < least:
                raise ConfigurationError(f"hydra.launcher.{name}={value}: write {least} or more")
        self._ray = optional("ray", "hydra/launcher=ray", "ray")
        self._cpus, self._asked, self._shared = cpus, slots, shared
        self._members: dict[int, RayMember] = {}
        self._endings: queue.Queue[Ending | ConfigurationError] = queue.Queue()
        self._owned = _connect(self._ray, address)
        self._seen: dict[str, dict[str, float]] = {}
        self._looked, self._alive = 0.0, list[dict[str, float]]()
        self._gpus = gpus if gpus is not None else float(any(node.get("GPU") for node in self._nodes()))
        for module in (travel, member_process, ray_place):
            self._ray.cloudpickle.register_pickle_by_value(module)
        self._place = self._ray.remote(ray_place.RayPlace)
        try:
            self._check_room(1)
        except ConfigurationError:
            self.close()
            raise

    # Room

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node that is alive."""
        if time.monotonic() > self._looked + NODES_SECONDS:
            alive = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
            self._alive = list(alive.values())
            self._seen.update(alive)
            self._looked = time.monotonic()
        return self._alive

    def _room(self, node: dict[str, float], devices: int) -> int:
        """Return how many members with so many devices a node has room for, when it is empty."""
        cpus = int(node.get("CPU", 0) // (self._cpus * devices))
        return min(cpus, int(node.get("GPU", 0) // (self._gpus * devices))) if self._gpus else cpus

    def _check_room(self, devices: int) -> None:
        """Check that a node can take a member with so many devices; one that has died may come back.

        Raises:
            ConfigurationError: If none ever could.
        """
        self._nodes()
        if not any(self._room(node, devices) for node in self._seen.values()):
            gpus = f" and {self._gpus * devices:g} GPUs" if self._gpus else ""
            raise ConfigurationError(
                f"no node of the Ray cluster has {self._cpus * devices} CPUs{gpus}, as a member with {devices} devices needs; "
                "write fewer: hydra.launcher.cpus, hydra.launcher.gpus, trainer.devices"
            )

    @property
    def slots(self) -> int:
        """Devices that the cluster has room for, or those that were asked for if they are fewer."""
        room = max(1, sum(self._room(node, 1) for node in self._nodes()))
        return room if self._asked is None else min(room, self._asked)

    @property
    def cores(self) -> int:
        """CPUs of all slots."""
        return self._cpus * self.slots

    def fits(self, devices: int) -> bool:
        """Return whether so many slots are free; a member that needs more than there are runs alone."""
        taken = sum(member.job.devices for member in self._members.values())
        return not self._members or taken + devices <= self.slots

    # Members

    def start(self, job: Job) -> None:
        """Ask Ray for a place for a member, and run it there.

        Raises:
            ConfigurationError: If it cannot run on this cluster.
        """
        if job.prunes and self._shared is False:
            raise ConfigurationError(NO_PRUNING)
        self._check_room(job.devices)
        place = self._place.options(
            num_cpus=self._cpus * job.devices,
            num_gpus=self._gpus * job.devices,
            max_restarts=0,
            max_concurrency=4,  # a signal, and the folder, while the member runs
        ).remote()
        member = RayMember(self._ray, place, job, self._shared, self._endings)
        self._members[job.number] = member
        member.start()

    def wait(self, seconds: float) -> list[Ending]:
        """Wait until a member ends.

        Raises:
            ConfigurationError: If a node cannot run members of this sweep.
        """
        endings: list[Ending] = []
        with suppress(queue.Empty):
            while True:
                ending = self._endings.get(timeout=0.0 if endings else seconds)
                if isinstance(ending, ConfigurationError):
                    raise ending
                self._members.pop(ending.number, None)
                endings.append(ending)
        return endings

    def send(self, number: int, signal_number: int) -> None:
        """Send a signal to a member; one that has no place yet will not begin."""
        if number in self._members:
            self._members[number].send(signal_number)

    def close(self) -> None:
        """End what still runs at once, and leave the cluster."""
        members, self._members = list(self._members.values()), {}
        for member in members:
            member.kill()
        for member in members:
            member.join(CLOSE_SECONDS)
        if self._owned and self._ray.is_initialized():
            self._ray.shutdown()
            _show_messages(self._ray, True)
            self._owned = False


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to a cluster; return whether that had not been done before.

    Raises:
        ConfigurationError: If there is none, or it has another version of Ray or Python.
    """
    if ray.is_initialized():
        return False
    arguments: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        arguments |= {"num_cpus": usable_cores(), "include_dashboard": False}
    try:
        with _own_handlers():
            ray.init(**arguments)
        _show_messages(ray, False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigurationError(
            f"hydra.launcher.address={address}: no Ray cluster that this process could use ({reason}); start one with: ray "
            "start --head; or leave the address out, and a Ray is started on this machine"
        ) from error
    return True


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep the handlers of signals: Ray sets its own, by which a sweep could no longer stop in good order."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items() if main else ():
            signal.signal(number, handler)


def _show_messages(ray: Any, shown: bool) -> None:
    """Say whether Ray prints what befalls nodes: fifty lines for one that dies, which no argument of `ray.init` leaves out."""
    worker = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "_worker_logs_enabled"):
        setattr(worker, "_worker_logs_enabled", shown)  # noqa: B010 (Ray's own, which may go)
