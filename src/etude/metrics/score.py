"""Scores, the statistics of rows that they are computed from, and the signatures that make them comparable.

Axes: N rows, K statistics of a row, M rows of a sample, T trials.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Real


@dataclass(frozen=True)
class Statistics(ABC):
    """The statistics of a score: a few numbers for each row, from which the score of any sample of rows is computed.

    Attributes:
        rows: [N, K] numbers of each row.
        alone: [N] score of each row by itself, nan for rows that do not count; their mean need not be the score. None if
            a single row has no score.
        signature: How the score is computed, as in sacreBLEU: `nrefs:1|case:mixed|…`, the number of references first.
        bounds: Smallest and largest possible score, to which an interval is clipped.
    """

    rows: Real[np.ndarray, "N K"]
    alone: Float64[np.ndarray, " N"] | None
    signature: str
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    @abstractmethod
    def whole(self) -> float:
        """The score of all rows."""

    @abstractmethod
    def resampled(self, times: Int[np.ndarray, "T N"]) -> Float64[np.ndarray, " T"]:
        """Return the scores of samples, each of which has each row the given number of times."""

    @abstractmethod
    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield, for each trial, both systems' scores after they exchanged the rows that are not kept.

        Args:
            other: Statistics of another system on the same rows, by the same metric.
            kept: Whether each row keeps its place in each trial.
        """


@dataclass(frozen=True)
class Summed(Statistics):
    """Statistics whose score is a function of the sum of the rows.

    Attributes:
        score: Function from the sum, [K], to the score.
    """

    score: Callable[[Float64[np.ndarray, " K"]], float] = field(kw_only=True)

    @property
    def whole(self) -> float:
        """The score of all rows."""
        return self.score(self.rows.sum(axis=0))

    def resampled(self, times: Int[np.ndarray, "T N"]) -> Float64[np.ndarray, " T"]:
        """Return the scores of samples, each of which has each row the given number of times."""
        return np.array([self.score(total) for total in times.astype(np.float64) @ self.rows])

    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield both scores of each trial."""
        stays = kept.astype(np.float64)
        first = stays @ self.rows + (1 - stays) @ other.rows
        second = (1 - stays) @ self.rows + stays @ other.rows
        for total, other_total in zip(first, second, strict=True):
            yield self.score(total), self.score(other_total)


@dataclass(frozen=True)
class Recomputed(Statistics):
    """Statistics whose score is a function of all rows of a sample, in any order: of their ranks, for example.

    Attributes:
        scores: Function from samples of equal size, [T, M, K], to the score of each.
    """

    scores: Callable[[Real[np.ndarray, "T M K"]], Float64[np.ndarray, " T"]] = field(kw_only=True)

    @property
    def whole(self) -> float:
        """The score of all rows."""
        return float(self.scores(self.rows[None])[0])

    def resampled(self, times: Int[np.ndarray, "T N"]) -> Float64[np.ndarray, " T"]:
        """Return the scores of samples, each of which has each row the given number of times."""
        sizes = times.sum(axis=1)
        scores = np.empty(len(times))
        for size in np.unique(sizes):
            alike = sizes == size
            scores[alike] = self.scores(np.stack([np.repeat(self.rows, some, axis=0) for some in times[alike]]))
        return scores

    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield both scores of each trial."""
        stays = kept[:, :, None]
        first, second = np.where(stays, self.rows, other.rows), np.where(stays, other.rows, self.rows)
        yield from zip(self.scores(first).tolist(), self.scores(second).tolist(), strict=True)


@dataclass(frozen=True)
class MeanOfGroups(Statistics):
    """Statistics of the mean of a score over groups of rows, each of which counts alike, whatever its size.

    A sample of rows is a sample of each group: of those that it has. `rows` are the numbers of the groups, [N, 1].

    Attributes:
        groups: Statistics of each group, by the same metric.
        places: Rows of each group among all.
    """

    groups: tuple[Statistics, ...] = ()
    places: tuple[Int[np.ndarray, " n"], ...] = ()

    @classmethod
    def of(cls, groups: Sequence[Statistics], places: Sequence[Int[np.ndarray, " n"]], name: str) -> MeanOfGroups:
        """Return the mean of groups.

        Args:
            groups: Statistics of each group, by the same metric.
            places: Rows of each group among all.
            name: What the groups are, for the signature: `directions:3`.
        """
        numbers = np.zeros((sum(map(len, places)), 1))
        alone = np.full(len(numbers), np.nan)
        for number, (group, own) in enumerate(zip(groups, places, strict=True)):
            numbers[own] = number
            alone[own] = np.nan if group.alone is None else group.alone
        every = None if any(group.alone is None for group in groups) else alone
        signature = f"{groups[0].signature}|{name}:{len(groups)}"
        return cls(numbers, every, signature, groups[0].bounds, tuple(groups), tuple(places))

    @property
    def whole(self) -> float:
        """The mean of the groups' scores."""
        return _mean_of([group.whole for group in self.groups])

    def resampled(self, times: Int[np.ndarray, "T N"]) -> Float64[np.ndarray, " T"]:
        """Return for each sample the mean of the scores of the groups that it has rows of."""
        total, present = np.zeros(len(times)), np.zeros(len(times))
        for group, own in zip(self.groups, self.places, strict=True):
            has_rows = times[:, own].any(axis=1)
            total[has_rows] += group.resampled(times[has_rows][:, own])
            present += has_rows
        return total / present

    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield both means of each trial."""
        groups = zip(self.groups, other.groups, self.places, strict=True)
        for scores in zip(*(one.exchanged(another, kept[:, own]) for one, another, own in groups), strict=True):
            first, second = zip(*scores, strict=True)
            yield _mean_of(first), _mean_of(second)


def _mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))


def mean_of_rows(
    values: Float[np.ndarray, " N"],
    signature: str,
    bounds: tuple[float, float],
    counted: Bool[np.ndarray, " N"] | None = None,
) -> Summed:
    """Return the statistics of a mean over rows, which is 0 of no rows.

    Args:
        values: Value of each row.
        signature: How the values are computed.
        bounds: Smallest and largest possible value.
        counted: Whether each row counts; None: all do.
    """
    counts = np.ones(len(values), bool) if counted is None else counted
    rows = np.stack([np.where(counts, values, 0.0), counts], axis=1)
    return Summed(rows, np.where(counts, values, np.nan), signature, bounds, score=_quotient)


def _quotient(total: Float64[np.ndarray, " 2"]) -> float:
    return float(total[0] / total[1]) if total[1] else 0.0


@dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Attributes:
        value: The score over the whole split.
        signature: How it was computed, in the metric's notation; empty if there is only one way.
        low: Lower end of its 95 % confidence interval; None without one.
        high: Upper end of the interval.
        statistics: Statistics of the rows it was computed from; None for a score that is not resampled.
    """

    value: float
    signature: str = ""
    low: float | None = None
    high: float | None = None
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
