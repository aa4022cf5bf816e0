"""What a task makes of a text that somebody types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Output:
    """One answer.

    Attributes:
        text: The answer.
        score: What answers are ranked by; None where there is only one.
        finished: False: it was stopped at its length limit.
    """

    text: str
    score: float | None = None
    finished: bool = True


@dataclass(frozen=True)
class Prediction:
    """The answers to one text.

    Attributes:
        outputs: At least one, the one to take first.
        cut: Whether the text had more tokens than the model reads, and lost its end.
        record: What is written as JSON instead, where a line has more to it than a text.
        refused: Whether the line is not of the form that the task reads, as its answer then says.
    """

    outputs: tuple[Output, ...]
    cut: bool = False
    record: Mapping[str, Any] | None = None
    refused: bool = False
