"""Scores of predicted classes by torchmetrics, over all rows of a split at once.

Axes: N rows, M rows of a sample. Rows whose label is `IGNORED` do not count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_matthews_corrcoef

from etude.errors import ConfigurationError
from etude.metrics.score import Recomputed, Statistics, mean_of_rows
from etude.types import IGNORED


class ClassMetric(ABC):
    """A metric of predicted classes, as named under `task.metrics` of a classification.

    Attributes:
        PARTS: As in `etude.metrics.text_metrics.TextMetric`.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def check(self, classes: Sequence[str]) -> None:  # noqa: B027 (most metrics fit any classes)
        """Check the metric's settings against the names of the classes.

        Raises:
            ConfigurationError: If they do not fit.
        """

    @abstractmethod
    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return the statistics that the score of all rows is computed from.

        Args:
            predictions: Id of the predicted class of each row.
            labels: Id of the right class of each row.
            classes: Names of the classes, by id.
        """


class Accuracy(ClassMetric):
    """The share of rows whose class was predicted, from 0 to 1."""

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return whether the class of each row was predicted."""
        hits = (predictions == labels).astype(np.float64)
        return mean_of_rows(hits, _signature(classes), (0, 1), labels != IGNORED)


class ClassF1(ClassMetric):
    """The harmonic mean of precision and recall, from 0 to 1.

    Args:
        positive: Class whose F1 it is; None: a mean over classes.
        average: Whether the mean is over all classes that occur or are predicted alike (`macro`), or weighted by their
            number of rows (`weighted`).
    """

    def __init__(self, positive: str | None = None, average: Literal["macro", "weighted"] = "macro") -> None:
        self.positive = positive
        self.average = average

    def check(self, classes: Sequence[str]) -> None:
        """Check that the positive class is one of the data.

        Raises:
            ConfigurationError: If it is not.
        """
        if self.positive is not None and self.positive not in classes:
            raise ConfigurationError(
                f"task.metrics: positive={self.positive} is not a class of the data, which has {', '.join(classes[:8])}"
            )

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return the predicted class and the right one of each row."""
        kind = f"average:{self.average}" if self.positive is None else f"positive:{self.positive}"
        return Recomputed(
            _pairs(predictions, labels), partial(self._of, classes), None, _signature(classes, kind), (0, 1)
        )

    def _of(self, classes: Sequence[str], rows: Int[np.ndarray, "M 2"]) -> float:
        average: Literal["macro", "weighted", "none"] = self.average if self.positive is None else "none"
        score = multiclass_f1_score(
            *_columns(rows), len(classes), average=average, ignore_index=IGNORED, validate_args=False
        )
        return float(score if self.positive is None else score[list(classes).index(self.positive)])


class Matthews(ClassMetric):
    """The correlation of predicted and right classes (Matthews 1975; Gorodkin 2004 for several), from -1 to 1.

    It is 0 where all rows have the same class, or the same prediction.
    """

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return the predicted class and the right one of each row."""
        return Recomputed(_pairs(predictions, labels), partial(_matthews, classes), None, _signature(classes), (-1, 1))


def _matthews(classes: Sequence[str], rows: Int[np.ndarray, "M 2"]) -> float:
    counted = rows[rows[:, 1] != IGNORED]
    if not (counted != counted[:1]).any(axis=0).all():
        return 0.0  # torchmetrics returns another value there
    return float(multiclass_matthews_corrcoef(*_columns(counted), len(classes), validate_args=False))


def _pairs(predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N 2"]:
    return np.stack([predictions, labels], axis=1)


def _columns(rows: Int[np.ndarray, "M 2"]) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    predictions, labels = torch.from_numpy(np.ascontiguousarray(rows.T))
    return predictions, labels


def _signature(classes: Sequence[str], *settings: str) -> str:
    return "|".join(["nrefs:1", f"classes:{len(classes)}", *settings])
