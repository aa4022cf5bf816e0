"""What a task must know of the run that it is trained in, and of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from etude.duration import Clock


@dataclass(frozen=True)
class RunContext:
    """What a task must know of the run it is trained in.

    Attributes:
        seed: The run's seed.
        micro_batches: Slices of each step on each process.
        warmup: Of the schedule, in the unit below.
        total: The budget, in the unit below.
        in_seconds: Whether warmup and total are seconds; otherwise they are steps.
        log_every: Steps between two lines of the record.
        clock: Turns the durations after which parameters begin to train into steps.
        run: The run's folder, for messages.
        ranks: Processes whose slices and seeds this one takes over, each as a micro-batch of its own.
    """

    seed: int
    micro_batches: int
    warmup: float
    total: float
    in_seconds: bool
    log_every: int
    clock: Clock = field(default_factory=lambda: Clock(1, 1.0))
    run: Path = Path()
    ranks: int = 1


class TaskData(Protocol):
    """What a task asks of the data module of its trainer."""

    evaluated: str

    def text(self, split: str, field: str, example: int) -> str:
        """Return a field of an example as it was read."""
        ...

    def references(self, split: str, example: int) -> list[str]:
        """Return the wanted outputs of an example, where there are any."""
        ...

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return ids as text."""
        ...

    def bytes_per_token(self, split: str) -> float:
        """Return the bytes of text that a token of a split stands for in the mean, where texts are modelled."""
        ...

    def tokens_at(self, step: int) -> int:
        """Return the real tokens of the first steps of a run."""
        ...

    def examples_of(self, step: int) -> list[int]:
        """Return the training examples of a step, counted from 1."""
        ...
