"""A score and what one must know to compare it.

Axes: N rows, K statistics of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Statistics:
    """What a score is computed from: a few numbers for each row. Those of a set of rows are summed, then scored.

    Attributes:
        rows: [N, K] numbers of each row.
        score: The score of a sum of them, [K].
        alone: [N] the score of each row by itself, nan for one that the score is not of; their mean need not be the score.
        signature: How the score is computed, as in sacreBLEU: `nrefs:1|case:mixed|…`, the number of references first.
    """

    rows: Float64[np.ndarray, "N K"]
    score: Callable[[Float64[np.ndarray, " K"]], float]
    alone: Float64[np.ndarray, " N"]
    signature: str

    @property
    def whole(self) -> float:
        """The score of all rows."""
        return self.score(self.rows.sum(axis=0))


@dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Attributes:
        value: The score over the whole split.
        signature: How it was computed, in the metric's own notation; empty where there is only one way.
        low: Lower end of its 95 % confidence interval; None where none was asked for.
        high: Upper end.
        statistics: What it was computed from, row by row; None for a score that is not resampled.
    """

    value: float
    signature: str = ""
    low: float | None = None
    high: float | None = None
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
