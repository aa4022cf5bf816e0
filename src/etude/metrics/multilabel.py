"""Scores of several classes at once by torchmetrics, over all rows of a split.

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
        """Return for each row which classes it was given, then which it has."""
        rows = np.concatenate([predictions, labels], axis=1).astype(np.int64)
        return Recomputed(rows, self._of, None, _signature(labels, f"average:{self.average}"), (0, 1))

    def _of(self, rows: Int[np.ndarray, "M 2*C"]) -> float:
        predictions, labels = torch.from_numpy(rows).chunk(2, dim=1)
        found = multilabel_f1_score(predictions, labels, labels.shape[1], average=self.average, validate_args=False)
        return float(found)


class LabelSetMatch(MultilabelMetric):
    """The share of rows all of whose classes were predicted, and no other, from 0 to 1."""

    def statistics(self, predictions: Bool[np.ndarray, "N C"], labels: Bool[np.ndarray, "N C"]) -> Statistics:
        """Return, for each row, whether its classes were predicted."""
        hits = (predictions == labels).all(axis=1).astype(np.float64)
        return mean_of_rows(hits, _signature(labels), (0, 1))


def _signature(labels: Bool[np.ndarray, "N C"], *how: str) -> str:
    return "|".join(["nrefs:1", f"classes:{labels.shape[1]}", *how])
