"""The process of a member on a node, as the program there sees it that starts it.

Uses the standard library alone: Ray sends it to its nodes as it is here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.sweeps.launchers.base import LOG

MODULE = "etude.cli.member"

FOREIGN = ("SLURM_", "SUBMITIT_", "PMI", "TORCHELASTIC_")
"""Begins of variables that describe the ranks of the job that a cluster started. A member starts its ranks itself."""

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ETUDE_PARENT", "ETUDE_REPORTS")
"""Variables of a rank, and of what started it."""

_CHUNK = 65536


class MemberProcess:
    """Runs a member in a child process and a session of its own, which ends with this process.

    Has to be made, and waited for, by one thread: the child dies with it.

    Args:
        job: A `Job` as plain values; see `etude.sweeps.launchers.base`.
        environment: Variables that it has besides those of this process.
        directory: Its working directory, which is made if it does not exist.

    Raises:
        OSError: If its folders cannot be written.
    """

    def __init__(self, job: Mapping[str, Any], environment: Mapping[str, str], directory: str) -> None:
        folder = Path(job["folder"])
        for path in (folder, Path(directory)):
            path.mkdir(parents=True, exist_ok=True)
        # Blocked signals are inherited: SIGUSR2 is SLURM's word to whoever started the member.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            with (folder / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", MODULE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=directory,
                    env=_own_variables(job, environment),
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self._process.stdin is not None  # noqa: S101 (for type checkers)
        with suppress(BrokenPipeError):  # its exit code tells
            self._process.stdin.write(json.dumps({**job, "parent": os.getpid()}).encode())
            self._process.stdin.close()

    def wait(self, seconds: float | None = None) -> tuple[int, str] | None:
        """Wait until the process ends.

        Args:
            seconds: At most so long; None: however long it takes.

        Returns:
            Exit code, negative for the signal that killed it, and what it said; None while it runs.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return code, self._reason()

    def _reason(self) -> str:
        """Return what the process said of its end, without waiting for others that may still hold the pipe."""
        assert self._process.stdout is not None  # noqa: S101 (for type checkers)
        descriptor = self._process.stdout.fileno()
        os.set_blocking(descriptor, False)
        try:
            return str(json.loads(os.read(descriptor, _CHUNK))["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def send(self, number: int) -> None:
        """Send a signal to the process, which passes it on to its ranks."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process at once; its ranks and what it forked notice that."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _own_variables(job: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    own = {
        name: value
        for name, value in {**os.environ, **environment}.items()
        if name not in RANKS and not name.startswith(FOREIGN)
    }
    return {**own, "OMP_NUM_THREADS": str(job["threads"]), "PYTHONSAFEPATH": "1"}
