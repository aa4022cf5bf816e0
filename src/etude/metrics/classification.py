"""Classification scores by torchmetrics, over all rows of a split at once.

Axes: N rows, C classes. Rows whose label is `IGNORED` do not count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxtyping import Int
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)

from etude.errors import ConfigurationError
from etude.types import IGNORED


class ClassMetric(ABC):
    """One way to compare predicted classes with the right ones: what `task.metrics` of a classification names."""

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def check(self, classes: Sequence[str]) -> None:  # noqa: B027 (most fit all classes)
        """Hold the metric against the names of the classes.

        Raises:
            ConfigurationError: If it does not fit them.
        """

    @abstractmethod
    def score(self, predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: Sequence[str]) -> float:
        """Return the score of all rows.

        Args:
            predictions: Ids of the predicted classes.
            labels: Ids of the right ones.
            classes: Their names.
        """


class Accuracy(ClassMetric):
    """The share of rows whose class was predicted, from 0 to 1."""

    def score(self, predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: Sequence[str]) -> float:
        """Return the score of all rows."""
        return accuracy(predictions, labels, len(classes))


class F1(ClassMetric):
    """The harmonic mean of precision and recall, from 0 to 1.

    Args:
        positive: The class whose F1 it is; None: a mean over classes.
        average: That mean: of all classes alike (`macro`), or by their number of rows (`weighted`).
    """

    def __init__(self, positive: str | None = None, average: Literal["macro", "weighted"] = "macro") -> None:
        self.positive = positive
        self.average = average

    def check(self, classes: Sequence[str]) -> None:
        """Look for the positive class among the names.

        Raises:
            ConfigurationError: If it is not there.
        """
        if self.positive is not None and self.positive not in classes:
            raise ConfigurationError(
                f"task.metrics: positive={self.positive} is no class of the data, which has {', '.join(classes[:8])}"
            )

    def score(self, predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: Sequence[str]) -> float:
        """Return the score of all rows."""
        if self.positive is None:
            return _f1(predictions, labels, len(classes), self.average)
        each = multiclass_f1_score(predictions, labels, len(classes), average="none", ignore_index=IGNORED)
        return float(each[list(classes).index(self.positive)])


class Matthews(ClassMetric):
    """The correlation of predicted and right classes (Matthews 1975; Gorodkin 2004 for several), from -1 to 1.

    It is 0 where all rows have one class, or all were given one.
    """

    def score(self, predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: Sequence[str]) -> float:
        """Return the score of all rows."""
        real = labels != IGNORED
        if min(len(found[real].unique()) for found in (predictions, labels)) < 2:
            return 0.0  # torchmetrics has another value there
        return float(multiclass_matthews_corrcoef(predictions, labels, len(classes), ignore_index=IGNORED))


def accuracy(predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> float:
    """Return the share of rows whose class was predicted, from 0 to 1."""
    return float(multiclass_accuracy(predictions, labels, classes, average="micro", ignore_index=IGNORED))


def macro_f1(predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> float:
    """Return the unweighted mean over classes of F1, the harmonic mean of precision and recall, from 0 to 1.

    Classes that neither occur nor are predicted are left out of the mean.
    """
    return _f1(predictions, labels, classes, "macro")


def confusion(predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> Int[Tensor, "C C"]:
    """Return how many rows of each class (first axis) were given each class (second axis)."""
    return multiclass_confusion_matrix(predictions, labels, classes, ignore_index=IGNORED)


def _f1(
    predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int, average: Literal["macro", "weighted"]
) -> float:
    return float(multiclass_f1_score(predictions, labels, classes, average=average, ignore_index=IGNORED))
