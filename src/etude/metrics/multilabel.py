"""Scores of predicted sets of classes by torchmetrics, over all rows of a split at once.

Axes: N rows, C classes, M rows of a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torchmetrics.functional.classification import multilabel_f1_score

from etude.metrics.score import Recomputed, Statistics, mean_of_rows


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
        """Return the predicted classes of each row, then its right ones, as zeros and ones."""
        rows = np.concatenate([predictions, labels], axis=1).astype(np.int64)
        return Recomputed(rows, self._of, None, _signature(labels, f"average:{self.average}"), (0, 1))

    def _of(self, rows: Int[np.ndarray, "M 2*C"]) -> float:
        predictions, labels = torch.from_numpy(rows).chunk(2, dim=1)
        score = multilabel_f1_score(predictions, labels, labels.shape[1], average=self.average, validate_args=False)
        return float(score)


class LabelSetMatch(MultilabelMetric):
    """The share of rows whose classes were predicted, all of them and no others, from 0 to 1."""

    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return whether exactly the classes of each row were predicted."""
        hits = (predictions == labels).all(axis=1).astype(np.float64)
        return mean_of_rows(hits, _signature(labels), (0, 1))


def _signature(labels: Bool[np.ndarray, "N C"], *settings: str) -> str:
    return "|".join(["nrefs:1", f"classes:{labels.shape[1]}", *settings])
