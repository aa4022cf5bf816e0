"""Scores of predicted classes, over all rows of a split at once.

Axes: N rows, C classes, K counts of a row. Rows whose label is `IGNORED` do not count.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from etude.errors import ConfigurationError
from etude.metrics.counts import class_counts, f1_of_each, summed_counts
from etude.metrics.score import Statistics, Summed, mean_of_rows
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
    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return what the score of all rows is computed from.

        Args:
            predictions: Ids of the predicted classes.
            labels: Ids of the right ones.
            classes: Their names.
        """


class Accuracy(ClassMetric):
    """The share of rows whose class was predicted, from 0 to 1."""

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return, for each row, whether its class was predicted."""
        hits = (predictions == labels).astype(np.float64)
        return mean_of_rows(hits, _signature(classes), (0, 1), labels != IGNORED)


class F1(ClassMetric):
    """The harmonic mean of precision and recall, from 0 to 1.

    Args:
        positive: The class whose F1 it is; None: a mean over classes.
        average: That mean: of all classes alike that occur or are predicted (`macro`), or by their number of rows
            (`weighted`).
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

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return, for each row and class, whether it is rightly given, given and true."""
        given, true = _one_hot(predictions, labels, len(classes))
        if self.positive is not None:
            column = [list(classes).index(self.positive)]
            rows = class_counts(given[:, column], true[:, column])
            return Summed(rows, _only_f1, None, _signature(classes, f"positive:{self.positive}"), (0, 1))
        means: dict[str, Callable[[np.ndarray], float]] = {"macro": _macro_f1, "weighted": _weighted_f1}
        signature = _signature(classes, f"average:{self.average}")
        return Summed(class_counts(given, true), means[self.average], None, signature, (0, 1))


class Matthews(ClassMetric):
    """The correlation of predicted and right classes (Matthews 1975; Gorodkin 2004 for several), from -1 to 1.

    It is 0 where all rows have one class, or all were given one.
    """

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return, for each row and class, whether it is rightly given, given and true."""
        rows = class_counts(*_one_hot(predictions, labels, len(classes)))
        return Summed(rows, _matthews, None, _signature(classes), (-1, 1))


def _one_hot(
    predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: int
) -> tuple[Bool[np.ndarray, "N C"], Bool[np.ndarray, "N C"]]:
    """Return which class each row was given, and which it has; no class at all for a row that does not count."""
    numbers, real = np.arange(classes), (labels != IGNORED)[:, None]
    return (predictions[:, None] == numbers) & real, (labels[:, None] == numbers) & real


def _signature(classes: Sequence[str], *how: str) -> str:
    return "|".join(["nrefs:1", f"classes:{len(classes)}", *how])


def _only_f1(total: Float64[np.ndarray, " 3"]) -> float:
    return float(f1_of_each(summed_counts(total))[0])


def _macro_f1(total: Float64[np.ndarray, " K"]) -> float:
    counts = summed_counts(total)
    present = counts[1:].sum(axis=0) > 0
    return float(f1_of_each(counts)[present].mean()) if present.any() else 0.0


def _weighted_f1(total: Float64[np.ndarray, " K"]) -> float:
    counts = summed_counts(total)
    return float(f1_of_each(counts) @ counts[2] / max(counts[2].sum(), 1))


def _matthews(total: Float64[np.ndarray, " K"]) -> float:
    right, given, true = summed_counts(total)
    count = true.sum()
    spread = float(count**2 - given @ given) * float(count**2 - true @ true)
    return float(right.sum() * count - given @ true) / math.sqrt(spread) if spread else 0.0
