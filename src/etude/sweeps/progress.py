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
from etude.runs.folder import state
from etude.runs.lock import holder
from etude.runs.record import RECORD, read

STATE = "state.json"
"""File in a sweep's folder in which the process that runs it says what it does."""

MemberState = Literal["waiting", "running", "stopped", "finished", "pruned", "rejected", "failed", "skipped"]

PRUNED = "pruned"
"""Begin of the reason why a pruned member ended."""

_TAIL = 1 << 14


@dataclass(frozen=True)
class Progress:
    """How far a member is.

    Attributes:
        step: Steps that are recorded.
        seconds: Seconds of training.
        score: The best of its validations so far; None before the first.
        last: Values of its last line.
    """

    step: int = 0
    seconds: float = 0.0
    score: float | None = None
    last: Mapping[str, float] | None = None


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
    return Progress(events[-1].step, events[-1].seconds, best(values, mode), events[-1].values)


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


def is_finished(run: Path) -> bool:
    """Return whether a run came to its end."""
    return state(run) == "finished"


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
