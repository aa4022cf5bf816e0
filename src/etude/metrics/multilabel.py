"""Scores of several classes at once by torchmetrics, over all rows of a split.

Axes: N rows, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Bool
from torch import Tensor
from torchmetrics.functional.classification import multilabel_exact_match, multilabel_f1_score


class MultilabelMetric(ABC):
    """One way to compare predicted sets of classes with the right ones: what `task.metrics` names."""

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def score(self, predictions: Bool[Tensor, "N C"], labels: Bool[Tensor, "N C"]) -> float:
        """Return the score of all rows."""


class MultilabelF1(MultilabelMetric):
    """The harmonic mean of precision and recall, from 0 to 1.

    Args:
        average: Over all decisions at once (`micro`), or the mean of the classes' own (`macro`).
    """

    def __init__(self, average: Literal["micro", "macro"] = "micro") -> None:
        self.average = average

    def score(self, predictions: Bool[Tensor, "N C"], labels: Bool[Tensor, "N C"]) -> float:
        """Return the score of all rows."""
        return float(multilabel_f1_score(predictions.int(), labels.int(), labels.shape[1], average=self.average))


class ExactMatch(MultilabelMetric):
    """The share of rows all of whose classes were predicted, and no other, from 0 to 1."""

    def score(self, predictions: Bool[Tensor, "N C"], labels: Bool[Tensor, "N C"]) -> float:
        """Return the score of all rows."""
        return float(multilabel_exact_match(predictions.int(), labels.int(), labels.shape[1]))
