"""Members as jobs of SLURM, submitted by submitit; its local executor stands in for SLURM on one machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from etude.atomic import make_folder, write_text
from etude.errors import ConfigurationError
from etude.extras import optional
from etude.hardware import usable_cores
from etude.signals import TERMINATED
from etude.sweeps.launchers.base import Ending, Job, MemberLauncher
from etude.sweeps.launchers.slurm_member import SlurmMember, ending_file, signal_file

FOLDER = ".submitit"
"""Folder in the sweep's for what submitit writes: scripts, logs, and what sweep and jobs say to each other."""

GENERIC = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)
"""Parameters that submitit takes for every cluster; the others get the cluster's name in front."""

LOST = ("NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "REVOKED", "CANCELLED", "DEADLINE")
"""States in which SLURM leaves a job that ended through no fault of its own."""

CLOSE_SECONDS = 10.0
"""Seconds that jobs on this machine have to end when the launcher is closed."""

_POLL = 0.1
LOOK = {"slurm": 30.0, "local": 1.0}
"""Seconds between two questions to the cluster whether a job still is."""

GRACE = {"slurm": 30.0, "local": 0.0}
"""Seconds in which files are seen that a job wrote just before its end."""


@dataclass
class _Submitted:
    """A member that was submitted: its job, whether it was asked to stop, when the cluster is asked of it, when it had ended."""

    job: Any
    devices: int
    asked: bool = False
    next_look: float = 0.0
    gone: float | None = None


class SubmititLauncher(MemberLauncher):
    """Submits each member as a job with one task. All nodes share the disk of the runs.

    When the sweep's process is killed, jobs of SLURM go on, and a sweep that is continued takes them up again; those of the
    local executor end with it. A job whose time is up, or whose node is taken away, saves, and goes on when it is requeued.

    Args:
        cluster: `slurm`, or `local` for this machine.
        slots: Devices at a time; None: `array_parallelism` on SLURM, one here.
        submitit_folder: Folder of submitit's files; None: in the sweep's.
        max_num_timeout: So often a job whose time is up is requeued.
        array_parallelism: Devices at a time, as users of Hydra's plugin know it.
        parameters: Parameters of jobs; see submitit.

    Raises:
        ConfigurationError: If submitit is not installed, or there is no SLURM.
    """

    def __init__(
        self,
        cluster: Literal["slurm", "local"],
        slots: int | None = None,
        submitit_folder: str | None = None,
        max_num_timeout: int = 100,
        array_parallelism: int = 256,
        **parameters: Any,
    ) -> None:
        self._submitit = optional("submitit", f"hydra/launcher=submitit_{cluster}", "slurm")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise ConfigurationError(
                "hydra/launcher=submitit_slurm: this machine has no sbatch; run it where jobs are submitted to SLURM, or write "
                "hydra/launcher=submitit_local to try it here"
            )
        self._cluster = cluster
        self._slots = slots or (array_parallelism if cluster == "slurm" else 1)
        self._folder, self._max_num_timeout = submitit_folder, max_num_timeout
        self._parameters = {name: value for name, value in parameters.items() if value is not None}
        self._submitted: dict[int, _Submitted] = {}
        self._endings: list[Ending] = []
        self._place = Path()

    @property
    def slots(self) -> int:
        """Devices that members share."""
        return self._slots

    @property
    def cores(self) -> int:
        """Cores of all slots."""
        given = self._parameters.get("cpus_per_task")
        if given is None and self._cluster == "local":
            return usable_cores()
        return int(given or 1) * self._slots

    def fits(self, devices: int) -> bool:
        """Return whether so many slots are free; a member that needs more than there are runs alone."""
        taken = sum(submitted.devices for submitted in self._submitted.values())
        return not self._submitted or taken + devices <= self._slots

    def start(self, job: Job) -> None:
        """Submit a member, or take up the job that still runs it. One that cannot be submitted has failed."""
        self._place = job.folder.parent / FOLDER
        make_folder(self._place)
        self._place.chmod(0o700)  # a job's file holds the configuration with all of its values
        signal_file(self._place, job.number).write_text("")
        known = self._running_job(job.number)
        if known is None:
            ending_file(self._place, job.number).unlink(missing_ok=True)
            try:
                known = self._submit(job)
            except (
                OSError,
                RuntimeError,
                subprocess.SubprocessError,
                self._submitit.core.utils.FailedJobError,
            ) as error:
                reason = " ".join(str(error).split())[-300:]
                self._endings.append(Ending(job.number, 1, f"cannot be submitted: {reason}"))
                return
            write_text(self._job_file(job.number), f"{known.job_id}\n{known.paths.folder}\n")
        self._submitted[job.number] = _Submitted(known, job.devices)

    def _job_file(self, number: int) -> Path:
        return self._place / f"{number:03d}.job"

    def _running_job(self, number: int) -> Any:
        """Return the job that a sweep which was killed has left running a member; None if there is none."""
        if self._cluster != "slurm" or not self._job_file(number).exists():
            return None
        job_id, folder = self._job_file(number).read_text().splitlines()
        job = self._submitit.SlurmJob(folder=folder, job_id=job_id)
        return None if job.done(force_check=True) else job

    def _submit(self, job: Job) -> Any:
        executor = self._submitit.AutoExecutor(
            folder=self._folder or self._place / "%j",
            cluster=self._cluster,
            **{
                f"{self._cluster}_max_num_timeout": self._max_num_timeout,
                # -P: nothing is imported from the working directory but what trust names.
                f"{self._cluster}_python": f"{shlex.quote(sys.executable)} -P",
            },
        )
        parameters = job_parameters(self._parameters, job.devices)
        try:
            executor.update_parameters(
                **{name if name in GENERIC else f"{self._cluster}_{name}": value for name, value in parameters.items()}
            )
        except (AssertionError, NameError, TypeError, ValueError) as error:
            raise ConfigurationError(f"hydra.launcher: {' '.join(str(error).split())[:300]}") from error
        patience = 0.8 * float(parameters.get("signal_delay_s", 30))
        owner = os.getpid() if self._cluster == "local" else None
        # Blocked signals are inherited: a terminal's Ctrl-C is for this process, which ends the members in good order.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return executor.submit(SlurmMember(job.plain(), self._place, str(Path.cwd()), patience, owner))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def wait(self, seconds: float) -> list[Ending]:
        """Look at the jobs until one has ended."""
        deadline = time.monotonic() + seconds
        while True:
            endings, self._endings = self._endings, []
            for number, submitted in self._submitted.items():
                ending = self._ending(number, submitted)
                endings += [ending] if ending is not None else []
            if endings or time.monotonic() > deadline:
                break
            time.sleep(min(_POLL, seconds))
        for ending in endings:
            self._submitted.pop(ending.number, None)
        return endings

    def _ending(self, number: int, submitted: _Submitted) -> Ending | None:
        said = self._said(number)
        if said is not None:
            code, reason = int(said["code"]), str(said["reason"])
            return Ending(number, code, reason, lost=code == TERMINATED and not submitted.asked)
        now = time.monotonic()
        if now >= submitted.next_look:
            submitted.next_look = now + LOOK[self._cluster]
            if submitted.gone is None and submitted.job.done(force_check=True):
                submitted.gone = now
        if submitted.gone is None or now < submitted.gone + GRACE[self._cluster]:
            return None
        if (said := self._said(number)) is not None:  # written just before its end
            return Ending(number, int(said["code"]), str(said["reason"]))
        state = str(submitted.job.state).split()[0]
        if submitted.asked:
            return Ending(number, TERMINATED, "ended by the cluster as it was asked to stop")
        reason = f"job {submitted.job.job_id} ended as {state} without a word; see {submitted.job.paths.stderr}"
        return Ending(number, -signal.SIGKILL, reason, lost=state in LOST)

    def _said(self, number: int) -> Mapping[str, Any] | None:
        with suppress(FileNotFoundError):
            content: Mapping[str, Any] = json.loads(ending_file(self._place, number).read_text())
            return content
        return None

    def send(self, number: int, signal_number: int) -> None:
        """Send a signal to a member by way of its job; a job that has not begun is withdrawn."""
        submitted = self._submitted.get(number)
        if submitted is None:
            return
        submitted.asked = True
        self._ask(number, signal_number)
        if self._cluster == "slurm" and str(submitted.job.state).startswith(("PENDING", "UNKNOWN", "REQUEUED")):
            self._cancel(submitted)
            self._endings.append(Ending(number, TERMINATED, "withdrawn before its job had begun"))

    def _ask(self, number: int, signal_number: int) -> None:
        # Written into the file that is there: a new one could stay unseen on another machine for a minute.
        signal_file(self._place, number).write_text(f"{time.time_ns()} {signal_number}\n")

    def _cancel(self, submitted: _Submitted) -> None:
        with suppress(OSError, subprocess.SubprocessError):
            submitted.job.cancel(check=False)

    def close(self) -> None:
        """End what still runs at once."""
        submitted, self._submitted = self._submitted, {}
        for number, one in submitted.items():
            self._ask(number, signal.SIGKILL) if self._cluster == "local" else self._cancel(one)
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._cluster == "local" and time.monotonic() < deadline:
            if all(one.job.done() for one in submitted.values()):
                return
            time.sleep(_POLL)


def job_parameters(given: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Return the parameters of a member's job: one task on one node, with a GPU for each device where GPUs are asked for."""
    parameters = {"name": "etude", **given, "nodes": 1, "tasks_per_node": 1}
    if parameters.get("gpus_per_node"):
        parameters["gpus_per_node"] = max(int(parameters["gpus_per_node"]), devices)
    if parameters.get("cpus_per_task"):
        parameters["cpus_per_task"] = max(int(parameters["cpus_per_task"]), devices)
    return parameters
