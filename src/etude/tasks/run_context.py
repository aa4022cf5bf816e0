"""The run that a task is trained in, as the task sees it, and the interface of the data that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from etude.duration import Clock, Duration
from etude.types import Exchange

Measured = Callable[[int, int, float], Mapping[str, float]]
"""Values by name of the steps after one and up to another, which took some seconds."""


@dataclass(frozen=True)
class RunContext:
    """The settings of a run that its task needs.

    Attributes:
        seed: Seed of the run.
        micro_batches: Slices of each step on each process.
        budget: Length of the run.
        log_every: Steps between two lines of the record.
        clock: Converts durations to steps.
        folder: Folder of the run, for messages.
        ranks: Number of processes whose work this one does: each of their slices is a micro-batch with that process's seed.
        measured: Measures the steps between two lines of the record; None: only their tokens per second are recorded.
    """

    seed: int
    micro_batches: int
    budget: Duration
    log_every: int
    clock: Clock = field(default_factory=lambda: Clock(1, 1.0))
    folder: Path = Path()
    ranks: int = 1
    measured: Measured | None = None

    @property
    def in_seconds(self) -> bool:
        """Whether the budget, and so the position in the run, is measured in seconds."""
        return self.budget.unit == "second"


class TaskData(Protocol):
    """What a task asks of the data module of its trainer.

    Attributes:
        evaluated: Split that is evaluated and predicted.
    """

    evaluated: str

    @property
    def micro_batches(self) -> int:
        """Slices of each training step on each process: the batches that share a `step_count`."""
        ...

    @property
    def clock(self) -> Clock:
        """Converts durations to steps."""
        ...

    def text(self, split: str, field: str, example: int) -> str:
        """Return a field of an example as it was read."""
        ...

    def references(self, split: str, example: int) -> list[str]:
        """Return the reference outputs of an example; of data that has such."""
        ...

    def exchange(self, split: str, example: int) -> Exchange:
        """Return the last exchange of a conversation; of data that has such."""
        ...

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return ids as text."""
        ...

    def bytes_per_token(self, split: str) -> float:
        """Return the mean bytes of text per token of a split; of language modelling data."""
        ...

    def parts_of(self, split: str) -> dict[str, range]:
        """Return the examples of each part of a split that is evaluated, by its name; of a mixture, or of several directions."""
        ...

    def name_of_part_score(self, part: str, score: str) -> str:
        """Return the name of a score of one of these parts."""
        ...

    def tokens_at(self, step: int) -> int:
        """Return the number of real tokens in the first steps of a run."""
        ...

    def examples_of(self, step: int) -> list[int]:
        """Return the training examples of a step, counted from 1."""
        ...
