"""Scores of predicted numbers, over all rows of a split at once; correlations are torchmetrics'.

Correlations do not depend on the unit of a system's numbers. So that exchanges of rows between two systems do not either,
the numbers are told in a unit of their own.

Axes: N rows, M rows of a sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

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
        """Return the two numbers of each row."""
        return _correlated(values, labels, pearson_corrcoef, "nrefs:1")


class Spearman(NumberMetric):
    """The linear correlation of ranks, from -1 to 1; 0 where all values or all labels are the same."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the two numbers of each row, which are ranked in each sample anew."""
        return _correlated(values, labels, spearman_corrcoef, "nrefs:1|ties:mean")


class MeanSquaredError(NumberMetric):
    """The mean of the squared differences, in the labels' own unit squared; less is better."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the squared difference of each row."""
        return mean_of_rows((values - labels) ** 2, "nrefs:1", (0, math.inf))


class Correlation(Protocol):
    """A correlation of torchmetrics."""

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        """Return the correlation of two vectors."""
        ...


def _correlated(
    values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"], correlation: Correlation, signature: str
) -> Statistics:
    rows = np.stack([_without_unit(values), _without_unit(labels)], axis=1)
    return Recomputed(rows, partial(_correlation, correlation), None, signature, (-1, 1))


def _without_unit(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Return the numbers from their mean on, in units of their mean deviation; zeros for equal ones."""
    if not (values != values[:1]).any():
        return np.zeros_like(values)  # the mean of equal numbers may be another one in the last bit
    deviations = values - values.mean()
    return deviations / np.abs(deviations).mean()


def _correlation(correlation: Correlation, rows: Float64[np.ndarray, "M 2"]) -> float:
    if not (rows != rows[:1]).any(axis=0).all():
        return 0.0  # torchmetrics warns, and has no number there
    first, second = torch.from_numpy(np.ascontiguousarray(rows.T))
    return float(correlation(first, second))
