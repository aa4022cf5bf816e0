"""A run's folder with its record, as the loggers of trackers find it, and trainings of it that are cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etude.runs.record import RECORD, Event, Record
from etude.training.loggers.base import TrackedRun
from etude.training.loggers.mirror import Mirror
from etude.training.loggers.safe_logger import SafeLogger

STARTED = 1_700_000_000.0


def tracked(folder: Path, **other: Any) -> TrackedRun:
    """Describe a run in a folder, which is made."""
    path = folder / "outputs" / "study" / "rates" / "007"
    path.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {
        "folder": path,
        "id": "c0ffee11",
        "name": "rates/007",
        "experiment": "study",
        "group": "study/rates",
        "tags": ["small", "first"],
        "notes": "a try | of *it*",
        "parameters": {"model.width": 7, "optimizer.lr": 1e-3, "optimizer.betas": [0.9, 0.98], "data.fast": True},
        "metric": "val/loss",
        "outputs": folder / "outputs",
        "started": STARTED,
    }
    return TrackedRun(**{**described, **other})


def event(number: int) -> Event:
    """Return an event; every fifth is a validation, whose values stand at the step of the training's before it."""
    validation = number % 5 == 4
    step, name = (number - 1, "val/loss") if validation else (number, "train/loss")
    return Event(step, 7 * step, 0.5 * number, {name: 1 / (number + 1)})


def train(folder: Path, make: Callable[[], Mirror], first: int, last: int) -> SafeLogger:
    """Log as a run does that continues after `first` events and stops after `last`."""
    record = Record(folder / RECORD)
    lines = (folder / RECORD).read_bytes().splitlines(keepends=True)
    record.cut(sum(map(len, lines[:first])))
    position = (0, 0, 0.0)
    logger = SafeLogger(make(), where=lambda: position)
    logger.save()
    for number in range(first, last):
        new = event(number)
        position = (new.step, new.tokens, new.seconds)
        record.append(new)
        logger.log_metrics(new.values)
    logger.finalize("success")
    record.close()
    return logger


def entries(last: int) -> list[tuple[int, str, float]]:
    """Return step, name and value of everything that the record of so many events has, sorted."""
    return sorted((one.step, name, value) for one in map(event, range(last)) for name, value in one.values.items())


def lose(folder: Path, count: int) -> None:
    """Add events to the record that no tracker was sent: the process was killed before."""
    record = Record(folder / RECORD)
    have = len((folder / RECORD).read_bytes().splitlines())
    for number in range(have, have + count):
        record.append(event(number))
    record.close()


TABLE: tuple[Sequence[str], Sequence[Sequence[Any]]] = (["source", "output"], [["a|b", "<i>c</i>"], ["d", 3]])
"""Columns and rows of a table."""
