"""Members that train nothing: they write a record and a conclusion, so that a sweep of many takes a second."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etude.config.schema import Config
from etude.runs.folder import CONFIGURATION, FINISHED
from etude.runs.record import RECORD, Event, Record
from etude.sweeps.launchers.base import Ending, Job, MemberLauncher
from etude.sweeps.reports import ValidationReport, read_answer, write_report

VALIDATIONS = 4


class KilledError(BaseException):
    """The process of the sweep is gone."""


def loss(config: Config, step: int) -> float:
    """The score of a validation: a bowl around lr 1e-3, that is walked down with time; each seed is a little elsewhere."""
    distance = abs(math.log10(float(config.optimizer.arguments["lr"])) + 3)
    return distance + 1.0 / step + 0.001 * config.seed


class PretendedLauncher(MemberLauncher):
    """Members go on by one validation whenever the sweep waits.

    Args:
        slots: Members at a time.
        fails: Says of a job whether its process fails now: an exit code, or 0.
        calls: After so many waits the sweep is killed; None: never.
    """

    def __init__(self, slots: int = 1, fails: Callable[[Job], int] | None = None, calls: int | None = None) -> None:
        self._slots = slots
        self._fails = fails or (lambda job: 0)
        self._calls = calls
        self._running: dict[int, Iterator[int | None]] = {}
        self.jobs: list[Job] = []
        self.sent: list[tuple[int, int]] = []
        self.most = 0

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def cores(self) -> int:
        return 2

    def fits(self, devices: int) -> bool:
        return len(self._running) < self._slots

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self._running[job.number] = self._member(job)
        self.most = max(self.most, len(self._running))

    def wait(self, seconds: float) -> list[Ending]:
        if self._calls is not None:
            self._calls -= 1
            if self._calls < 0:
                raise KilledError
        endings = []
        for number, member in list(self._running.items()):
            code = next(member)
            if code is not None:
                del self._running[number]
                endings.append(Ending(number, code, "it was made to fail" if code else ""))
        return endings

    def send(self, number: int, signal_number: int) -> None:
        self.sent.append((number, signal_number))
        self._running[number] = iter([143])

    def close(self) -> None:
        self._running.clear()

    def _member(self, job: Job) -> Iterator[int | None]:
        """Yield None while it trains, then an exit code."""
        config = Config.of(job.values, job.overrides)
        (job.folder / CONFIGURATION).write_text("{}")
        lines = (job.folder / RECORD).read_text().splitlines(keepends=True) if (job.folder / RECORD).exists() else []
        done = len(lines)
        if job.prunes:  # as a run that continues from its checkpoint, it makes a validation again that has no answer
            done = next(index for index in range(done + 1) if read_answer(job.folder, index + 1) is not False)
        (job.folder / RECORD).write_text("".join(lines[:done]))
        record = Record(job.folder / RECORD)
        ended, index = "the budget is spent", done
        for index in range(done + 1, VALIDATIONS + 1):
            if code := self._fails(job):
                yield code
                return
            record.append(Event(index, index, float(index), {"val/loss": loss(config, index)}))
            yield None
            if job.prunes:
                write_report(job.folder, ValidationReport(index=index, step=index, value=loss(config, index)))
                while (ends := read_answer(job.folder, index)) is None:
                    yield None
                if ends:
                    ended = f"pruned after {index} validations"
                    break
        record.close()
        conclude(job.folder, index, ended, loss(config, index))
        yield 0


def conclude(folder: Path, step: int, ended: str, value: float) -> None:
    """Write `finished.json`."""
    conclusion: Mapping[str, Any] = {
        "step": step,
        "ended": ended,
        "split": "val",
        "checkpoint": f"step-{step:08d}",
        "examples": 1,
        "scores": {"val/loss": value},
        "signatures": {},
        "intervals": {},
    }
    (folder / FINISHED).write_text(json.dumps(conclusion))
