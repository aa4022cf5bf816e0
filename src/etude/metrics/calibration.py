"""Calibration of predicted probabilities: its error, and the temperature that reduces it.

Axes: N rows, C classes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from etude.metrics.reliability import BINS

COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of the temperature: the best one is 0 where all rows are right, and infinite where all are guesses."""

HALVINGS = 60
"""Bisections of the interval of logarithms, whose length is then below double precision."""


def fitted_temperature(logits: Float64[Tensor, "N C"], labels: Int[Tensor, " N"]) -> float:
    """Return the temperature T of least cross-entropy of softmax(logits / T) (Guo et al. 2017, section 4.2).

    The cross-entropy is convex in 1 / T; its slope is the mean over rows of the logits' expectation under the
    probabilities, less the logit of the right class. Its root is found by bisection between `COLDEST` and `HOTTEST`. A
    slope that has underflowed to 0 counts as negative: all rows are right, and a lower temperature is still better.

    Args:
        logits: Logits of rows that were not trained on.
        labels: Right class of each row.
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
    """Return the expected calibration error (Naeini et al. 2015): Σ share of rows · |accuracy - confidence| over bins.

    Args:
        logits: Logits of each row.
        labels: Right class of each row.
        temperature: Divisor of the logits.
    """
    probabilities = torch.softmax(logits / temperature, dim=1)
    return float(multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=BINS, norm="l1"))
