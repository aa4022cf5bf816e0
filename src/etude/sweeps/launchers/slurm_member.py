"""A member inside a job of SLURM, or of submitit's local stand-in for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from etude.atomic import write_json
from etude.errors import StorageError
from etude.extras import optional
from etude.sweeps.launchers.member_process import MemberProcess

POLL = 0.5
"""Seconds between two looks at what the sweep asks."""


def signal_file(folder: Path, number: int) -> Path:
    """Return the file in which a sweep writes a signal for a member."""
    return folder / f"{number:03d}.signal"


def ending_file(folder: Path, number: int) -> Path:
    """Return the file in which a job writes how its member ended."""
    return folder / f"{number:03d}.ending.json"


class SlurmMember:
    """What a job does: it runs a member; when SLURM takes its node away, the member saves, and the requeued job goes on.

    Args:
        job: A `Job` as plain values; see `etude.sweeps.launchers.base`.
        folder: The folder in which sweep and job write to each other.
        directory: The member's working directory.
        patience: Seconds that the member has to save after SLURM's notice.
        owner: The process of the sweep, where the job is to end with it; None: it runs on.
    """

    def __init__(
        self, job: Mapping[str, Any], folder: Path, directory: str, patience: float, owner: int | None = None
    ) -> None:
        self.arguments = (job, folder, directory, patience, owner)
        self._job, self._folder, self._directory, self._patience, self._owner = self.arguments
        self._process: MemberProcess | None = None
        self._noticed = False
        self._sent = ""

    def __call__(self) -> int:
        """Run the member to its end; return its exit code."""
        # Submitit's own handler would work amid a wait for the process, which holds a lock.
        notice = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
        requeue = signal.signal(notice, self._notice)
        try:
            self._process = MemberProcess(self._job, {}, self._directory)
            ended = self._process.wait(POLL)
            while ended is None:
                if self._noticed and callable(requeue):
                    requeue(notice, None)  # calls `checkpoint`, and leaves
                self._pass_on()
                ended = self._process.wait(POLL)
        except OSError as error:
            ended = StorageError.exit_code, f"{os.uname().nodename} cannot write {error.filename}: {error.strerror}"
        code, reason = ended
        write_json(ending_file(self._folder, int(self._job["number"])), {"code": code, "reason": reason}, indent=None)
        return code

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True

    def _pass_on(self) -> None:
        """Send the member what the sweep asks, and end it where the sweep has ended."""
        assert self._process is not None  # noqa: S101 (for type checkers: it runs)
        # Opened anew each time: that is when a network file system asks whether a file has changed.
        asked = signal_file(self._folder, int(self._job["number"])).read_text()
        if asked.endswith("\n") and asked != self._sent:
            self._sent = asked
            self._process.send(int(asked.split()[-1]))
        if self._owner is not None and not Path(f"/proc/{self._owner}").exists():
            self._process.kill()

    def checkpoint(self) -> Any:
        """Let the member save and end, and return what the requeued job does: the same."""
        assert self._process is not None  # noqa: S101 (for type checkers: it runs)
        self._process.send(signal.SIGTERM)
        if self._process.wait(self._patience) is None:
            self._process.kill()
        submitit = optional("submitit", "hydra/launcher=submitit_slurm", "slurm")
        return submitit.helpers.DelayedSubmission(SlurmMember(*self.arguments))
