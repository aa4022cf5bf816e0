"""Reliability of predicted probabilities: how often predictions of about the same confidence are right.

Axes: N rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

BINS = 15
"""Number of equal bins of confidence, as in Guo et al. 2017."""


class ConfidenceBin(NamedTuple):
    """Predictions of about the same confidence.

    Attributes:
        low: The least confidence of the bin.
        high: Where the next bin begins.
        rows: Number of predictions; at least one.
        confidence: Their mean confidence.
        accuracy: The share of them that is right.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def reliability(
    confidence: Float64[np.ndarray, " N"], right: Bool[np.ndarray, " N"], bins: int = BINS
) -> list[ConfidenceBin]:
    """Return the bins that have predictions, by rising confidence (Niculescu-Mizil and Caruana 2005).

    The expected calibration error is Σ rows · |accuracy - confidence| / N over them.

    Args:
        confidence: Probability of each prediction, from 0 to 1.
        right: Whether it is right.
        bins: Number of equal bins of confidence; 1 belongs to the last one.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            means = float(confidence[inside].mean()), float(right[inside].mean())
            found.append(ConfidenceBin(float(edges[place]), float(edges[place + 1]), int(inside.sum()), *means))
    return found
