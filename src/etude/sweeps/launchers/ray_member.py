"""A member on a Ray cluster, as the sweep sees it: a thread that waits for its place, and for its end."""

from __future__ import annotations

import importlib.metadata
import os
import queue
import secrets
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.errors import ConfigurationError, DefectError, StorageError
from etude.runs.folder import resolve
from etude.signals import TERMINATED
from etude.sweeps.launchers.base import Ending, Job
from etude.sweeps.launchers.travel import Arrival, Entries, best_only, differing, entries, parts
from etude.sweeps.sweep_documents import MEMBER

FETCH_SECONDS = 30.0
"""Seconds between two times that a running member's folder comes from a node that shares no disk."""

PASSED = ("ETUDE_", "WANDB_", "HF_", "TOKENIZERS_")
"""Begins of variables that a member gets from this process."""

NO_PRUNING = (
    "pruner=… needs a disk that the nodes of the Ray cluster share with this machine, since members ask there whether they "
    "should go on; write pruner=none, or paths.outputs=FOLDER on such a disk"
)

_PATIENCE = 0.2


class NoPlaceError(Exception):
    """A member was stopped before it had a place."""


class RayMember(threading.Thread):
    """Brings a member to its place, waits for its end, and brings back its folder.

    Args:
        ray: The package.
        place: The actor; see `etude.sweeps.launchers.ray_place`.
        job: The member.
        shared: Whether the node shares the disk; None: it is asked.
        endings: Where the end is said, or why no member of the sweep can run there.
    """

    def __init__(
        self, ray: Any, place: Any, job: Job, shared: bool | None, endings: queue.Queue[Ending | ConfigurationError]
    ) -> None:
        super().__init__(daemon=True, name=f"member {job.number}")
        self.job = job
        self._ray, self._place, self._shared, self._endings = ray, place, shared, endings
        self._stopped = threading.Event()
        self._placed = False
        self._host, self._seen = "", True

    def run(self) -> None:
        """Attend to the member; whatever happens, say how it ended."""
        number = self.job.number
        try:
            said: Ending | ConfigurationError = Ending(number, *self._attended())
        except ConfigurationError as error:
            said = error
        except NoPlaceError:
            said = Ending(number, TERMINATED, "stopped before a node had room for it")
        except self._ray.exceptions.RayActorError as error:
            said = Ending(number, -signal.SIGKILL, *self._loss(error))
        except StorageError as error:
            said = Ending(number, error.exit_code, str(error))
        except Exception as error:
            said = Ending(number, DefectError.exit_code, f"{self._host}: {' '.join(str(error).split())[-300:]}")
        self.kill()
        self._endings.put(said)

    def _loss(self, error: Exception) -> tuple[str, bool]:
        """Return why a place was lost, and whether that is not the member's fault."""
        if "memory" in str(error).lower():  # Ray ends whoever fills a node's memory, and would again
            return f"Ray ended it on {self._host}: the node's memory was full", False
        return f"its node or worker was lost ({self._host or 'before it began'})", True

    def send(self, signal_number: int) -> None:
        """Pass a signal on."""
        if self._placed:
            self._place.send.remote(signal_number)
        else:
            self._stopped.set()

    def kill(self) -> None:
        """End the place, and with it the member."""
        with suppress(Exception):
            self._ray.kill(self._place)

    def _attended(self) -> tuple[int, str]:
        shared = self._looked()
        folder = self.job.folder
        if not shared:
            self._bring()
        directory = str(Path.cwd())
        running = self._place.run.remote(self.job.plain(), passed_variables(os.environ), directory)
        while not self._ray.wait([running], timeout=None if shared else FETCH_SECONDS)[0]:
            self._fetch()
        code, reason = self._ray.get(running)
        if not shared:
            while not self._fetch():
                pass
            if not self._seen:
                self._ray.get(self._place.forget.remote(str(folder)))
        return code, reason

    def _looked(self) -> bool:
        """Wait for a place, and return whether the folder of the run is seen there.

        Raises:
            NoPlaceError: If the member is stopped before.
            ConfigurationError: If members of this sweep cannot run there.
        """
        token, content = self.job.folder / f".token-{secrets.token_hex(4)}", secrets.token_hex(16)
        token.write_text(content)
        try:
            looking = self._place.look.remote(str(token), content)
            while not self._ray.wait([looking], timeout=_PATIENCE)[0]:
                if self._stopped.is_set():
                    raise NoPlaceError
            found = self._ray.get(looking)
        finally:
            token.unlink(missing_ok=True)
        self._host, self._seen = str(found["host"]), bool(found["shared"])
        check_node(found, self._shared, self.job)
        self._placed = True
        if self._stopped.is_set():
            raise NoPlaceError
        return self._seen if self._shared is None else self._shared

    # The way of folders

    def _bring(self) -> None:
        """Send the folders that the member needs to the node: its own, and that of the run that it starts from."""
        self._send_folder(self.job.folder, entries(self.job.folder))
        start = start_of(self.job)
        if start is not None:
            self._send_folder(start, best_only(entries(start)))

    def _send_folder(self, folder: Path, here: Entries) -> None:
        place, get = self._place, self._ray.get
        names = differing(here, get(place.entries.remote(str(folder), ())))
        refused = get(place.arrive.remote(str(folder)))
        if refused:
            raise StorageError(f"{refused}; write paths.outputs=FOLDER that can be written on all nodes")
        for batch in parts(folder, names):
            get(place.take.remote(batch))
        get(place.commit.remote(here))

    def _fetch(self) -> bool:
        """Bring the run's folder up to date here; return whether nothing of it was removed meanwhile."""
        place, get, folder = self._place, self._ray.get, self.job.folder
        there: Entries = get(place.entries.remote(str(folder), (MEMBER,)))
        get(place.leave.remote(str(folder), differing(there, entries(folder))))
        arrival = Arrival(folder)
        try:
            while batch := get(place.parts.remote()):
                arrival.take(batch)
            if batch is None:
                return False
            arrival.commit(there)
        finally:
            arrival.drop()
        return True


def check_node(found: Mapping[str, Any], shared: bool | None, job: Job) -> None:
    """Check that a node can run a member.

    Args:
        found: What the node has: its `host`, the `version` of etude, and whether the disk is `shared`.
        shared: Whether it has to share the disk; None: as it is.
        job: The member.

    Raises:
        ConfigurationError: If it cannot.
    """
    host, version, own = found["host"], found["version"], importlib.metadata.version("etude")
    if version != own:
        has = f"has etude {version}" if version else "has no etude"
        raise ConfigurationError(
            f"node {host} of the Ray cluster {has}, and this machine has etude {own}; install the same there: pip install "
            f"etude=={own}"
        )
    if shared and not found["shared"]:
        raise ConfigurationError(
            f"node {host} of the Ray cluster does not see {job.folder}; write paths.outputs=FOLDER on a disk that all share, or "
            "leave out hydra.launcher.shared=true"
        )
    if job.prunes and not (found["shared"] and shared is not False):
        raise ConfigurationError(NO_PRUNING)


def passed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this process that a member gets."""
    return {name: value for name, value in environment.items() if name.startswith(PASSED)}


def start_of(job: Job) -> Path | None:
    """Return the folder of the run that a member starts from; None if it starts from none, or there is no such run."""
    start = job.values.get("start")
    if start is None:
        return None
    with suppress(ConfigurationError):  # the member says that
        return resolve(str(start), Path(job.values["paths"]["outputs"]))
    return None
