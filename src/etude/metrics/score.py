"""A score, what it is computed from row by row, and what one must know to compare it.

Axes: N rows, K statistics of a row, M rows of a sample, T trials.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Real


@dataclass(frozen=True)
class Statistics(ABC):
    """What a score is computed from: a few numbers for each row, and the score of any sample of rows.

    Attributes:
        rows: [N, K] numbers of each row.
        score: What makes them a score: see the kinds, `Summed` and `Recomputed`.
        alone: [N] the score of each row by itself, nan for one that the score is not of; their mean need not be the score.
            None: a row by itself has none.
        signature: How the score is computed, as in sacreBLEU: `nrefs:1|case:mixed|…`, the number of references first.
        bounds: The least and the largest score that there can be, where an interval ends at the latest.
    """

    rows: Real[np.ndarray, "N K"]
    score: Callable[[np.ndarray], float]
    alone: Float64[np.ndarray, " N"] | None
    signature: str
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    @abstractmethod
    def whole(self) -> float:
        """The score of all rows."""

    @abstractmethod
    def resampled(self, times: Int[np.ndarray, " N"]) -> float:
        """Return the score of a sample that has each row so many times."""

    @abstractmethod
    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield, for each trial, both scores after the rows that are not kept were exchanged with those of another system.

        Args:
            other: Of the same rows of data, by the same metric.
            kept: Which rows stay where they are.
        """


class Summed(Statistics):
    """Rows are summed, and `score` makes the sum, [K], a score."""

    @property
    def whole(self) -> float:
        """The score of all rows."""
        return self.score(self.rows.sum(axis=0))

    def resampled(self, times: Int[np.ndarray, " N"]) -> float:
        """Return the score of a sample that has each row so many times."""
        return self.score(times @ self.rows)

    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield both scores of each trial."""
        stays = kept.astype(np.float64)
        first = stays @ self.rows + (1 - stays) @ other.rows
        second = (1 - stays) @ self.rows + stays @ other.rows
        for one, two in zip(first, second, strict=True):
            yield self.score(one), self.score(two)


class Recomputed(Statistics):
    """`score` takes the rows of a sample themselves, [M, K], in any order: for what is no function of sums, such as ranks."""

    @property
    def whole(self) -> float:
        """The score of all rows."""
        return self.score(self.rows)

    def resampled(self, times: Int[np.ndarray, " N"]) -> float:
        """Return the score of a sample that has each row so many times."""
        return self.score(np.repeat(self.rows, times, axis=0))

    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield both scores of each trial."""
        for stays in kept[:, :, None]:
            first, second = np.where(stays, self.rows, other.rows), np.where(stays, other.rows, self.rows)
            yield self.score(first), self.score(second)


def mean_of_rows(
    values: Float[np.ndarray, " N"],
    signature: str,
    bounds: tuple[float, float],
    counted: Bool[np.ndarray, " N"] | None = None,
) -> Summed:
    """Return the statistics of a mean over rows; of no rows it is 0.

    Args:
        values: Of each row.
        signature: How they are computed.
        bounds: The least and the largest value that there can be.
        counted: The rows that the mean is of; None: all.
    """
    counts = np.ones(len(values), bool) if counted is None else counted
    rows = np.stack([np.where(counts, values, 0.0), counts], axis=1)
    return Summed(rows, _quotient, np.where(counts, values, np.nan), signature, bounds)


def _quotient(total: Float64[np.ndarray, " 2"]) -> float:
    return float(total[0] / total[1]) if total[1] else 0.0


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
