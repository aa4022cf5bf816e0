"""Precision and recall at every threshold of a score.

Axes: N decisions, K thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of the decisions whose score is at least a threshold.

    Attributes:
        thresholds: The different scores, falling, [K].
        precision: Share of what is found that is right, [K].
        recall: Share of what is right that is found, [K], rising to 1.
        positives: Number of decisions that should be positive; at least one.
    """

    thresholds: Float64[np.ndarray, " K"]
    precision: Float64[np.ndarray, " K"]
    recall: Float64[np.ndarray, " K"]
    positives: int

    @property
    def average_precision(self) -> float:
        """Σ precision · increase of recall over the thresholds: the area below the steps (no interpolation)."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    def points(self, count: int) -> list[tuple[float, float, float]]:
        """Return threshold, precision and recall where recall first reaches so many even steps from 0 to 1, each once."""
        places = np.unique(np.searchsorted(self.recall, np.linspace(0.0, 1.0, count) - 1e-12))
        columns = (self.thresholds, self.precision, self.recall)
        return list(zip(*(column[places].tolist() for column in columns), strict=True))

    def at_recall(self, wanted: float) -> tuple[float, float]:
        """Return the highest threshold whose recall is at least `wanted`, and the precision there."""
        place = int(np.searchsorted(self.recall, wanted - 1e-12))
        return float(self.thresholds[place]), float(self.precision[place])


def precision_recall(scores: Float64[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> PrecisionRecall | None:
    """Return precision and recall at every score; None if no decision should be positive, which has no recall.

    Args:
        scores: Score of each decision; the higher, the rather positive.
        positive: Whether it should be positive.
    """
    positives = int(positive.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of equal scores all are found or none
    hits = np.cumsum(positive)[last].astype(np.float64)
    return PrecisionRecall(scores[last], hits / (last + 1), hits / positives, positives)
