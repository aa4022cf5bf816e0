"""What a task makes of a text that somebody types."""

from __future__ import annotations

from dataclasses import dataclass


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
        cut: Whether the text had more tokens than the model reads, and lost a part of them.
    """

    outputs: tuple[Output, ...]
    cut: bool = False
