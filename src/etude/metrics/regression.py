"""Scores of predicted numbers, over all rows of a split at once, in double precision.

Correlations are computed anew from the rows of each sample: ranks are no function of sums, and sums of squares lose the
digits of numbers that lie close together. They do not depend on the unit of a system's numbers; so that exchanges between
two systems do not either, the numbers are told in a unit of their own.

Axes: N rows, M rows of a sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from etude.metrics.score import Recomputed, Statistics, mean_of_rows


class NumberMetric(ABC):
    """One way to compare predicted numbers with the right ones: what `task.metrics` of a regression names."""

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return what the score of all rows is computed from.

        Args:
            values: The predicted numbers.
            labels: The right ones.
        """


class Pearson(NumberMetric):
    """The linear correlation, from -1 to 1; 0 where all values or all labels are the same."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the two numbers of each row, from their mean on and in units of their mean deviation."""
        rows = np.stack([_without_unit(values), _without_unit(labels)], axis=1)
        return Recomputed(rows, _correlation, None, "nrefs:1", (-1, 1))


class Spearman(NumberMetric):
    """The linear correlation of ranks, from -1 to 1; 0 where all values or all labels are the same."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return twice the two ranks of each row, whole numbers, which are ranked in each sample anew."""
        rows = 2 * np.stack([_ranks(values), _ranks(labels)], axis=1)
        return Recomputed(rows, _correlation_of_ranks, None, "nrefs:1|ties:mean", (-1, 1))


class MeanSquaredError(NumberMetric):
    """The mean of the squared differences, in the labels' own unit squared; less is better."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the squared difference of each row."""
        return mean_of_rows((values - labels) ** 2, "nrefs:1", (0, math.inf))


def _correlation(rows: Float64[np.ndarray, "M 2"]) -> float:
    columns = np.ascontiguousarray(rows.T)
    # Of equal numbers the mean may be another one in the last bit.
    if not (columns != columns[:, :1]).any(axis=1).all():
        return 0.0
    deviations = columns - columns.mean(axis=1, keepdims=True)
    # No square of these is too small or too large.
    first, second = deviations / np.abs(deviations).max(axis=1, keepdims=True)
    found = float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))
    return min(max(found, -1.0), 1.0)


def _without_unit(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    deviations = values - values.mean()
    return deviations / (np.abs(deviations).mean() or 1.0)


def _correlation_of_ranks(doubled: Float64[np.ndarray, "M 2"]) -> float:
    """Return the correlation of the ranks of a sample, whose rows hold twice their ranks among all rows."""
    return _correlation(np.stack([_ranks_of_whole_numbers(column.astype(np.int64)) for column in doubled.T]).T)


def _ranks(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Return ranks from 1; equal numbers share the mean of theirs."""
    return _ranks_of_whole_numbers(np.unique(values, return_inverse=True)[1])


def _ranks_of_whole_numbers(values: Int64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
    """Return ranks of numbers from 0 on, by counting, which is faster than sorting them in each sample."""
    counts = np.bincount(values)
    return (np.cumsum(counts) - (counts - 1) / 2)[values]
