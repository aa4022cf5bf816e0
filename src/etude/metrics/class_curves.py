"""Curves of a classifier's probabilities: reliability by confidence, and precision over recall of each class."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import multiclass_precision_recall_curve

from etude.metrics.calibration import BINS

THRESHOLDS = 21
"""Points of a curve of precision over recall: probabilities from 0 to 1."""


def reliability(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> list[tuple[float, float, int]]:
    """Return mean confidence, accuracy and number of rows of each of `BINS` bins of confidence (Guo et al. 2017, section 2).

    A calibrated classifier's confidence is its accuracy. Empty bins are left out.

    Args:
        probabilities: Probabilities of each class.
        labels: Right class of each row.
    """
    confidence, predicted = probabilities.max(dim=1)
    right = (predicted == labels).double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS)  # a bin holds its upper end
    found = []
    for number in range(1, BINS + 1):
        inside = place == number
        if inside.any():
            found.append((float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    return found


def precision_over_recall(
    probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"]
) -> list[tuple[int, float, float, float]]:
    """Return class, threshold, precision and recall at `THRESHOLDS` thresholds of the probability of each class.

    A threshold that no row reaches has no precision, and a class of no row no recall: they are left out.

    Args:
        probabilities: Probabilities of each class.
        labels: Right class of each row.
    """
    classes = probabilities.shape[1]
    thresholds = torch.linspace(0, 1, THRESHOLDS, dtype=probabilities.dtype)
    # With thresholds it returns tensors; without, lists.
    found: tuple[Any, Any, Any] = multiclass_precision_recall_curve(probabilities, labels, classes, thresholds)
    precision, recall, _ = found
    return [
        (number, float(threshold), float(precision[number, place]), float(recall[number, place]))
        for number in labels.unique().tolist()
        for place, threshold in enumerate(thresholds)
        if (probabilities[:, number] >= threshold).any()
    ]
