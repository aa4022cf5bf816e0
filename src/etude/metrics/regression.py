"""Scores of predicted numbers by torchmetrics, over all rows of a split at once, in double precision.

Axes: N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor
from torchmetrics.functional import mean_squared_error, pearson_corrcoef, spearman_corrcoef


class NumberMetric(ABC):
    """One way to compare predicted numbers with the right ones: what `task.metrics` of a regression names."""

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def score(self, values: Float64[Tensor, " N"], labels: Float64[Tensor, " N"]) -> float:
        """Return the score of all rows."""


class Pearson(NumberMetric):
    """The linear correlation, from -1 to 1; 0 where all values or all labels are the same."""

    def score(self, values: Float64[Tensor, " N"], labels: Float64[Tensor, " N"]) -> float:
        """Return the score of all rows."""
        return float(pearson_corrcoef(values, labels)) if _vary(values, labels) else 0.0


class Spearman(NumberMetric):
    """The linear correlation of ranks, from -1 to 1; 0 where all values or all labels are the same."""

    def score(self, values: Float64[Tensor, " N"], labels: Float64[Tensor, " N"]) -> float:
        """Return the score of all rows."""
        return float(spearman_corrcoef(values, labels)) if _vary(values, labels) else 0.0


class MeanSquaredError(NumberMetric):
    """The mean of the squared differences, in the labels' own unit squared; less is better."""

    def score(self, values: Float64[Tensor, " N"], labels: Float64[Tensor, " N"]) -> float:
        """Return the score of all rows."""
        return float(mean_squared_error(values, labels))


def _vary(values: Float64[Tensor, " N"], labels: Float64[Tensor, " N"]) -> bool:
    return bool((values != values[0]).any() and (labels != labels[0]).any())
