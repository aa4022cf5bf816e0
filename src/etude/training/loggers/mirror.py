"""What the loggers of trackers share: each event of a run's record reaches the tracker once.

`metrics.jsonl` is the truth. A process that is killed has not sent all of its events. When the run is continued, its logger
reads what the tracker holds, and sends what is missing from the record.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from etude.runs.record import RECORD, read

PROGRESS = frozenset({"tokens", "seconds"})
"""Names of the position in the run, which stands beside the values of each event."""

Entry = tuple[int, str]
"""A step, and the name of a value at it."""

Ending = Literal["finished", "failed", "killed"]
"""What became of a run, as far as its process could tell."""


@dataclass(frozen=True)
class Unsent:
    """The values of an event that the tracker does not hold.

    Attributes:
        step: Number of optimizer steps done.
        seconds: Seconds of training so far; those of the last event where they are not known.
        values: Values by name, with the position in the run (`PROGRESS`), where it is known.
    """

    step: int
    seconds: float
    values: Mapping[str, Any]


class Mirror(Logger):
    """Shows one run folder as one run of a tracker, however often the run is interrupted and continued.

    A value is known by its step and its name: a second value of that name at that step is not sent. Wrap the logger in a
    `SafeLogger`: every call can fail or hang.
    """

    service: str | None = None
    """Name of the tracker for people; None: that of the class."""

    interval = 0.0
    """Seconds between two requests. What is logged meanwhile goes with the next one: a request costs as much as a step."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        """Remember the folder of the run; nothing is started before the first use.

        Args:
            folder: Folder of the run.
            arguments: Arguments of the next base class.
        """
        super().__init__(**arguments)
        self._folder = folder
        self._held: set[Entry] | None = None
        self._stopped = False
        self._seconds = 0.0
        self._pending: list[Unsent] = []
        self._due = 0.0

    @abstractmethod
    def connect(self) -> Iterable[Entry]:
        """Open the run in the tracker, and return the entries that it holds."""

    @abstractmethod
    def send(self, events: Sequence[Unsent]) -> None:
        """Send values to the tracker, in order."""

    def conclude(self, ending: Ending) -> None:
        """Tell the tracker what became of the run, for now: a run that failed can be continued."""

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return str(self._folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send the values that the tracker does not hold at this step."""
        self.catch_up()
        self._send([(step or 0, metrics)])

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `connect` sends the configuration."""

    def save(self) -> None:
        """Connect. Lightning calls this when a fit starts."""
        self.catch_up()

    def mark_stopped(self, number: int) -> None:
        """Remember that a signal ends the process before the run is over."""
        self._stopped = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a fit or a test. Only a failure ends the run: scores follow a success."""
        self._flush()
        if status != "success" and self._held is not None:
            self.conclude("killed" if self._stopped else "failed")

    @rank_zero_only
    def close(self) -> None:
        """End the run, which is finished."""
        self._flush()
        if self._held is not None:
            self.conclude("finished")

    def catch_up(self) -> None:
        """At the first call, connect, and send the events of the record that the tracker does not hold."""
        if self._held is not None:
            return
        self._held = set(self.connect())
        record = self._folder / RECORD
        events = read(record) if record.exists() else []
        self._send((event.step, {**event.values, "tokens": event.tokens, "seconds": event.seconds}) for event in events)

    def is_held(self, step: int, name: str) -> bool:
        """Return whether the tracker holds a value of this name at this step."""
        held: set[Entry] = self._held or set()
        return (step, name) in held

    def hold(self, step: int, names: Iterable[str]) -> None:
        """Remember that the tracker holds values of these names at a step."""
        if self._held is not None:
            self._held |= {(step, name) for name in names}

    def _send(self, events: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Send what is not held of the values at steps."""
        for step, values in events:
            self._seconds = float(values.get("seconds", self._seconds))
            names = {name for name in values if name not in PROGRESS and not self.is_held(step, name)}
            if names:
                self.hold(step, names)
                new = {name: value for name, value in values.items() if name in names | PROGRESS}
                self._pending.append(Unsent(step, self._seconds, new))
        if time.monotonic() >= self._due:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            events, self._pending = self._pending, []
            self.send(events)
            self._due = time.monotonic() + self.interval

    def _take(self, step: int, name: str) -> bool:
        """Connect, and return whether this table or page is new at this step; from now on it is held."""
        self.catch_up()
        new = not self.is_held(step, name)
        self.hold(step, [name])
        return new


class ScalarMirror(Mirror):
    """A mirror in a tracker that keeps each value by itself, and not the events.

    Tokens and seconds are values of their own there, one of each at a step.
    """

    def scalars(self, event: Unsent) -> dict[str, float]:
        """Return the values to send, with the position in the run if the tracker does not hold it at this step."""
        new = {
            name: float(value)
            for name, value in event.values.items()
            if name not in PROGRESS or not self.is_held(event.step, name)
        }
        self.hold(event.step, new)
        return new
