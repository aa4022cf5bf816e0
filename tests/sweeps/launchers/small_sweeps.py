"""Sweeps of three small trainings by the command line, under a launcher or another, and what they come to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from etude.sweeps.progress import last_line
from etude.sweeps.saved_sweep import SavedSweep
from tests.runs.killing import End, assert_same, end

WORDS = (
    "experiment=translation/demo",
    "limit.train=200",
    "limit.val=20",
    "limit.test=20",
    "budget=60step",
    "validate.every=15step",
    "checkpoint.every=5step",
    "log.every=1step",
    "logger=none",
    "trainer=cpu",
    "trainer.progress_bar=false",
    "decoding=greedy",
    "decoding.max_length=12",
    "seed=1,2,3",
)
SEEDS = 3
SECONDS = 500.0


@dataclass
class Sweeping:
    """A sweep that runs.

    Attributes:
        process: The command.
        folder: Its folder.
    """

    process: subprocess.Popen[str]
    folder: Path

    def finished(self) -> str:
        """Wait for its end, which is a good one, and return what it said."""
        _, said = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, said[-3000:]
        return said

    def steps(self, number: int) -> int:
        """The steps that a member has recorded."""
        return last_line(self.folder / f"{number:03d}")[0]

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, while the sweep runs."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the sweep ended first: {self.process.communicate()[1][-3000:]}")
            time.sleep(0.05)

    def ends(self) -> list[End]:
        """What its members came to."""
        return [end(self.folder / f"{number:03d}") for number in range(SEEDS)]

    def attempts(self) -> list[str]:
        """Why attempts at members failed."""
        return [
            attempt.reason for member in SavedSweep.open(self.folder).members for attempt in member.document.attempts
        ]


def begin(folder: Path, name: str, words: Sequence[str], command: Sequence[str] = ("train", "-m", *WORDS)) -> Sweeping:
    """Start a sweep of this name in a folder, or go on with it."""
    given = [*command, f"sweep.name={name}", *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "etude", *given],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Sweeping(process, folder / "outputs" / "translation" / "demo" / name)


def assert_same_ends(found: Sequence[End], expected: Sequence[End]) -> None:
    """Members of two sweeps ended alike, bit for bit."""
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, lines=20)
