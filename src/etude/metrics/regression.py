"""Scores of predicted numbers, over all rows of a split at once; the correlations are torchmetrics'.

A correlation does not depend on the scale of a system's numbers. Numbers are standardized, so that a comparison of two
systems by exchanging their rows does not depend on it either.

Axes: N rows, M rows of a sample, T samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from etude.metrics.score import Recomputed, Statistics, mean_of_rows


class NumberMetric(ABC):
    """A metric of predicted numbers, as named under `task.metrics` of a regression.

    Attributes:
        PARTS: As in `etude.metrics.text_metrics.TextMetric`.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the statistics that the score of all rows is computed from.

        Args:
            values: Predicted number of each row.
            labels: Right number of each row.
        """


class Pearson(NumberMetric):
    """The linear correlation, from -1 to 1; 0 if all values or all labels are equal."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the value and the label of each row."""
        return _correlated(values, labels, pearson_corrcoef, "nrefs:1")


class Spearman(NumberMetric):
    """The linear correlation of ranks, from -1 to 1; 0 if all values or all labels are equal."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the value and the label of each row, to be ranked in each sample."""
        return _correlated(values, labels, spearman_corrcoef, "nrefs:1|ties:mean")


class MeanSquaredError(NumberMetric):
    """The mean squared difference, in the square of the labels' unit; less is better."""

    def statistics(self, values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"]) -> Statistics:
        """Return the squared difference of each row."""
        return mean_of_rows((values - labels) ** 2, "nrefs:1", (0, math.inf))


class Correlation(Protocol):
    """A correlation of torchmetrics."""

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        """Return the correlation of two vectors, or of each column of two matrices."""
        ...


def _correlated(
    values: Float64[np.ndarray, " N"], labels: Float64[np.ndarray, " N"], correlation: Correlation, signature: str
) -> Statistics:
    rows = np.stack([_standardized(values), _standardized(labels)], axis=1)
    return Recomputed(rows, None, signature, (-1, 1), scores=partial(_correlations, correlation))


def _standardized(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Return deviations from the mean, in units of the mean absolute deviation; zeros if all values are equal."""
    if not (values != values[:1]).any():
        return np.zeros_like(values)  # the mean of equal numbers may differ from them in the last bit
    deviations = values - values.mean()
    return deviations / np.abs(deviations).mean()


def _correlations(correlation: Correlation, samples: Float64[np.ndarray, "T M 2"]) -> Float64[np.ndarray, " T"]:
    varies = (samples != samples[:, :1]).any(axis=1).all(axis=1)
    scores = np.zeros(len(samples))  # where all are equal, torchmetrics warns and returns nan
    if varies.any():
        first, second = torch.from_numpy(np.ascontiguousarray(samples[varies].transpose(2, 1, 0)))
        scores[varies] = correlation(first, second).numpy()
    return scores
