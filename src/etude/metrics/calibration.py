"""Whether probabilities are what they say, and one number that brings them closer to it.

Axes: N rows, C classes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15
"""Equal bins of confidence, as in Guo et al. 2017."""

COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures that are tried: where all rows are right, or guessed at, the best one lies beyond any bound."""

HALVINGS = 60
"""Of the interval of logarithms: its length is then below the precision of a number."""


def fitted_temperature(logits: Float64[Tensor, "N C"], labels: Int[Tensor, " N"]) -> float:
    """Return the temperature T of least cross-entropy of softmax(logits / T) (Guo et al. 2017, section 4.2).

    The cross-entropy is convex in 1 / T; its slope there is the mean over rows of what the probabilities expect of the
    logits, less the right class's logit. The root is found by halving, between `COLDEST` and `HOTTEST`. A slope that has
    sunk to 0 in the precision of a number is one of rows that all are right.

    Args:
        logits: Of rows that were not trained on.
        labels: Their classes.
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        expected = ((logits * inverse).softmax(dim=1) * logits).sum(dim=1)
        return float((expected - right).mean())

    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) <= 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def calibration_error(logits: Float64[Tensor, "N C"], labels: Int[Tensor, " N"], temperature: float = 1.0) -> float:
    """Return the expected calibration error (Naeini et al. 2015): Σ over bins of rows' share |accuracy - confidence|.

    Args:
        logits: Of each row.
        labels: The right classes.
        temperature: What the logits are divided by.
    """
    probabilities = torch.softmax(logits / temperature, dim=1)
    return float(multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=BINS, norm="l1"))
