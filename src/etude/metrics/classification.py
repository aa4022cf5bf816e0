"""Scores of predicted classes, over all rows of a split at once.

All of them are functions of a few counts of each class, so that a thousand resamplings need no other pass over the rows.

Axes: N rows, C classes, T trials. Rows whose label is `IGNORED` do not count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, Self

import numpy as np
from jaxtyping import Bool, Float64, Int

from etude.errors import ConfigurationError
from etude.metrics.score import Statistics, mean_of_rows
from etude.types import IGNORED

Counts = Float64[np.ndarray, "3 C"]
"""How many rows of each class there are, how many were predicted to be, and how many of these rightly."""


@dataclass(frozen=True)
class ClassCounts(Statistics):
    """Statistics whose score is a function of counts of classes. `rows` are the right and the predicted class, [N, 2].

    Attributes:
        classes: C.
        score: Function from the counts to the score.
    """

    classes: int = field(kw_only=True)
    score: Callable[[Counts], float] = field(kw_only=True)

    @property
    def whole(self) -> float:
        """The score of all rows."""
        return float(self.resampled(np.ones((1, len(self.rows)), np.int64))[0])

    def resampled(self, times: Int[np.ndarray, "T N"]) -> Float64[np.ndarray, " T"]:
        """Return the scores of samples, each of which has each row the given number of times."""
        return np.array([self.score(counts) for counts in self._counts(times).swapaxes(0, 1)])

    def exchanged(self, other: Self, kept: Bool[np.ndarray, "T N"]) -> Iterator[tuple[float, float]]:
        """Yield both scores of each trial."""
        every = np.ones((1, len(self.rows)), bool)
        own, others = self._counts(kept), other._counts(kept)
        first, second = own + other._counts(every) - others, others + self._counts(every) - own
        for trial in range(len(kept)):
            yield self.score(first[:, trial]), self.score(second[:, trial])

    def _counts(self, times: Int[np.ndarray, "T N"] | Bool[np.ndarray, "T N"]) -> Float64[np.ndarray, "3 T C"]:
        """Return the counts of samples that have each row so many times."""
        right, predicted = self.rows.T
        weights = times * (right != IGNORED)
        starts = np.arange(len(weights))[:, None] * self.classes
        occurs = np.where(right == IGNORED, 0, right)
        columns = ((occurs, weights), (predicted, weights), (occurs, weights * (right == predicted)))
        size = len(weights) * self.classes
        counts = [np.bincount((starts + ids).ravel(), some.ravel(), size) for ids, some in columns]
        return np.stack(counts).reshape(3, len(weights), self.classes)


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
        score = self._mean if self.positive is None else partial(_f1_of, list(classes).index(self.positive))
        return ClassCounts(
            _pairs(predictions, labels), None, _signature(classes, kind), (0, 1), classes=len(classes), score=score
        )

    def _mean(self, counts: Counts) -> float:
        right, predicted, _ = counts
        weights = right if self.average == "weighted" else ((right + predicted) > 0).astype(np.float64)
        total = weights.sum()
        return float(weights @ _f1(counts) / total) if total else 0.0


class Matthews(ClassMetric):
    """The correlation of predicted and right classes (Matthews 1975; Gorodkin 2004 for several), from -1 to 1.

    It is 0 where all rows have the same class, or the same prediction.
    """

    def statistics(
        self, predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: Sequence[str]
    ) -> Statistics:
        """Return the predicted class and the right one of each row."""
        return ClassCounts(
            _pairs(predictions, labels), None, _signature(classes), (-1, 1), classes=len(classes), score=_matthews
        )


def _f1(counts: Counts) -> Float64[np.ndarray, " C"]:
    """Return the F1 of each class; 0 of one that neither occurs nor is predicted."""
    right, predicted, hits = counts
    return 2 * hits / np.maximum(right + predicted, 1)


def _f1_of(place: int, counts: Counts) -> float:
    return float(_f1(counts)[place])


def _matthews(counts: Counts) -> float:
    right, predicted, hits = counts
    rows = right.sum()
    spread = (rows**2 - right @ right) * (rows**2 - predicted @ predicted)
    return float((hits.sum() * rows - right @ predicted) / np.sqrt(spread)) if spread else 0.0


def _pairs(predictions: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N 2"]:
    return np.stack([labels, predictions], axis=1)


def _signature(classes: Sequence[str], *settings: str) -> str:
    return "|".join(["nrefs:1", f"classes:{len(classes)}", *settings])
