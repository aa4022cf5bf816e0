"""A score and what one must know to compare it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Attributes:
        value: The score over the whole split.
        signature: How it was computed, in the metric's own notation; empty where there is only one way.
        low: Lower end of its 95 % confidence interval; None where none was asked for.
        high: Upper end.
    """

    value: float
    signature: str = ""
    low: float | None = None
    high: float | None = None
