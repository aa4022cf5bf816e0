"""Classification scores by torchmetrics, over all rows of a split at once.

Axes: N rows, C classes. Rows whose label is `IGNORED` do not count.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from etude.types import IGNORED


def accuracy(predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> float:
    """Return the share of rows whose class was predicted, from 0 to 1."""
    return float(multiclass_accuracy(predictions, labels, classes, average="micro", ignore_index=IGNORED))


def macro_f1(predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> float:
    """Return the unweighted mean over classes of F1, the harmonic mean of precision and recall, from 0 to 1.

    Classes that neither occur nor are predicted are left out of the mean.
    """
    return float(multiclass_f1_score(predictions, labels, classes, average="macro", ignore_index=IGNORED))


def confusion(predictions: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> Int[Tensor, "C C"]:
    """Return how many rows of each class (first axis) were given each class (second axis)."""
    return multiclass_confusion_matrix(predictions, labels, classes, ignore_index=IGNORED)
