"""Scores of predicted sets of classes, over all rows of a split at once.

Axes: N rows, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64

from etude.metrics.score import Statistics, Summed, mean_of_rows


class MultilabelMetric(ABC):
    """A metric of predicted sets of classes, as named under `task.metrics` of a multilabel task.

    Attributes:
        PARTS: As in `etude.metrics.text_metrics.TextMetric`.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return the statistics that the score of all rows is computed from.

        Args:
            predictions: Whether each class was predicted for each row.
            labels: Whether each row has each class.
        """


class MultilabelF1(MultilabelMetric):
    """The harmonic mean of precision and recall, from 0 to 1.

    Args:
        average: Whether it is taken over all decisions at once (`micro`), or is the mean of the classes' F1 (`macro`).
    """

    def __init__(self, average: Literal["micro", "macro"] = "micro") -> None:
        self.average = average

    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return for each row how often each class is predicted or right, 0 to 2, then whether it is both."""
        rows = np.concatenate([predictions.astype(np.float64) + labels, predictions & labels], axis=1)
        return Summed(rows, None, _signature(labels, f"average:{self.average}"), (0, 1), score=self._of)

    def _of(self, total: Float64[np.ndarray, " 2*C"]) -> float:
        either, hits = total.reshape(2, -1)
        if self.average == "micro":
            either, hits = either.sum(keepdims=True), hits.sum(keepdims=True)
        return float((2 * hits / np.maximum(either, 1)).mean())


class LabelSetMatch(MultilabelMetric):
    """The share of rows whose classes were predicted, all of them and no others, from 0 to 1."""

    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return whether exactly the classes of each row were predicted."""
        hits = (predictions == labels).all(axis=1).astype(np.float64)
        return mean_of_rows(hits, _signature(labels), (0, 1))


def _signature(labels: Bool[np.ndarray, "N C"], *settings: str) -> str:
    return "|".join(["nrefs:1", f"classes:{labels.shape[1]}", *settings])
