"""Scores of several classes at once, over all rows of a split.

Axes: N rows, C classes, K counts of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64

from etude.metrics.counts import class_counts, f1_of_each, summed_counts
from etude.metrics.score import Statistics, Summed, mean_of_rows


class MultilabelMetric(ABC):
    """One way to compare predicted sets of classes with the right ones: what `task.metrics` names."""

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return what the score of all rows is computed from.

        Args:
            predictions: Which classes each row was given.
            labels: Which it has.
        """


class MultilabelF1(MultilabelMetric):
    """The harmonic mean of precision and recall, from 0 to 1.

    Args:
        average: Over all decisions at once (`micro`), or the mean of the classes' own (`macro`).
    """

    def __init__(self, average: Literal["micro", "macro"] = "micro") -> None:
        self.average = average

    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return, for each row, how many classes are rightly given, given and true: in all, or of each class."""
        rows = class_counts(predictions, labels)
        if self.average == "micro":
            rows = rows.reshape(len(labels), 3, labels.shape[1]).sum(axis=2)
        return Summed(rows, _mean_f1, None, _signature(labels, f"average:{self.average}"), (0, 1))


class ExactMatch(MultilabelMetric):
    """The share of rows all of whose classes were predicted, and no other, from 0 to 1."""

    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return, for each row, whether its classes were predicted."""
        hits = (predictions == labels).all(axis=1).astype(np.float64)
        return mean_of_rows(hits, _signature(labels), (0, 1))


def _signature(labels: Bool[np.ndarray, "N C"], *how: str) -> str:
    return "|".join(["nrefs:1", f"classes:{labels.shape[1]}", *how])


def _mean_f1(total: Float64[np.ndarray, " K"]) -> float:
    return float(f1_of_each(summed_counts(total)).mean())
