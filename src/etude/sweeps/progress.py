"""How far the members of a sweep are, read from the files of their runs and from what the sweep says of itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from etude.errors import DataError
from etude.runs.lock import holder
from etude.runs.record import RECORD, read

STATE = "state.json"
"""File in a sweep's folder in which the process that runs it says what it does."""

MemberState = Literal["waiting", "running", "stopped", "finished", "pruned", "rejected", "failed", "skipped"]

_TAIL = 1 << 14


@dataclass(frozen=True)
class Progress:
    """How far a member is.

    Attributes:
        step: Steps that are recorded.
        seconds: Seconds of training.
        score: The best of its validations so far; None before the first.
        tokens: Tokens that it has trained on.
    """

    step: int = 0
    seconds: float = 0.0
    score: float | None = None
    tokens: int = 0


def scores(run: Path, metric: str) -> list[float]:
    """Return the scores of a run's validations, in their order; none where the record has none.

    Args:
        run: The run's folder.
        metric: Name of the score, such as `val/loss`.

    Raises:
        DataError: If the record is damaged.
    """
    path = run / RECORD
    if not path.exists():
        return []
    return [float(event.values[metric]) for event in read(path) if metric in event.values]


def best(values: Sequence[float], mode: str) -> float | None:
    """Return the best of scores, None if there is none that is a number."""
    numbers = [value for value in values if value == value]
    return (max if mode == "max" else min)(numbers, default=None)


def progress(run: Path, metric: str, mode: str) -> Progress:
    """Return how far a run is; a record that is being written, or is damaged, says what it can."""
    try:
        events = read(run / RECORD) if (run / RECORD).exists() else []
    except DataError:
        events = []
    if not events:
        return Progress()
    values = [float(event.values[metric]) for event in events if metric in event.values]
    return Progress(events[-1].step, events[-1].seconds, best(values, mode), events[-1].tokens)


def last_line(run: Path) -> tuple[int, float]:
    """Return step and seconds of the last line of a run's record, without reading the rest."""
    try:
        with (run / RECORD).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0, 0.0
    for line in reversed(lines):  # the last may be half written
        with suppress(ValueError, KeyError, TypeError):
            content = json.loads(line)
            return int(content["step"]), float(content["seconds"])
    return 0, 0.0


class RecordFollower:
    """Reads the record of a run that trains, each line once.

    Args:
        run: The run's folder.
        metric: Name of the score.
        mode: Whether the best score is the smallest or the largest.
    """

    def __init__(self, run: Path, metric: str, mode: str) -> None:
        self._path = run / RECORD
        self._metric, self._mode = metric, mode
        self._read = 0
        self._now = Progress()

    def look(self) -> Progress:
        """Return how far the run is."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:  # a continued run has cut it back to its checkpoint
                    self._read, self._now = 0, Progress()
                file.seek(self._read)
                content = file.read()
        except OSError:
            return self._now
        whole = content.rfind(b"\n") + 1
        self._read += whole
        for line in content[:whole].splitlines():
            with suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))
        return self._now

    def _take(self, line: Mapping[str, Any]) -> None:
        scored = [] if self._now.score is None else [self._now.score]
        if self._metric in line["values"]:
            scored.append(float(line["values"][self._metric]))
        self._now = Progress(int(line["step"]), float(line["seconds"]), best(scored, self._mode), int(line["tokens"]))


def wait_for(folder: Path, seconds: float) -> bool:
    """Wait until no process runs a sweep any more; return whether that came in time."""
    deadline = time.monotonic() + seconds
    while holder(folder) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def read_states(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what the process of a sweep last said of each member; nothing if that cannot be read."""
    try:
        members = json.loads((folder / STATE).read_text())["members"]
        return {int(member["number"]): member for member in members}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
