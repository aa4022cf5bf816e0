"""Multi-label classification: any number of classes for each text, or pair of texts.

Axes: B examples, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.multilabel import LabelSetMatch, MultilabelF1, MultilabelMetric
from etude.metrics.score import Statistics
from etude.models.base import TextEncoder
from etude.models.losses.targets import binary_cross_entropy
from etude.models.pooling import PoolingName
from etude.optim.schedules import Schedule
from etude.tasks.pooled import LARGEST_ERRORS, Pooled
from etude.tasks.running_sums import Row
from etude.types import Facts, MultilabelBatch

STANDARD_METRICS: Mapping[str, MultilabelMetric] = {
    "micro_f1": MultilabelF1("micro"),
    "macro_f1": MultilabelF1("macro"),
    "exact_match": LabelSetMatch(),
}

DIGITS = 5
"""Digits of probabilities in the rows of an evaluation."""


class Multilabel(Pooled):
    """An independent decision about each class; the loss is the mean over classes of their cross-entropies.

    Args:
        facts: Vocabulary, special ids, classes, and the number of texts of an example.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        pooling: `mean` of the states of real tokens, the state of the `first`, or that state through a `pooler`.
        head_dropout: Dropout on the pooled state.
        threshold: Probability from which a class is predicted.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        metrics: Metrics that compare predicted sets of classes with the true ones, by the name of the score; None:
            `STANDARD_METRICS`.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/micro_f1", "val/macro_f1", "val/exact_match")
    """Names with `STANDARD_METRICS`; other metrics replace all but the loss."""

    STANDARD: ClassVar[Mapping[str, MultilabelMetric]] = STANDARD_METRICS
    METRIC: ClassVar[type | None] = MultilabelMetric
    BATCH: ClassVar[str] = "MultilabelBatch"

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        pooling: PoolingName = "first",
        head_dropout: float = 0.1,
        threshold: float = 0.5,
        gradient_clip: float | None = 1.0,
        metrics: Mapping[str, MultilabelMetric] | None = None,
    ) -> None:
        if not facts.classes:
            raise ConfigurationError("classification needs a class or more; no example of the training data has one")
        outputs = len(facts.classes)
        super().__init__(facts, model, optimizer, scheduler, outputs, pooling, head_dropout, gradient_clip)
        self.threshold = threshold
        self.metrics = self.checked_metrics(metrics)

    def loss(self, batch: MultilabelBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the mean cross-entropy of the classes, summed over examples."""
        return binary_cross_entropy(self.forward(batch), batch.labels, batch.ids >= 0)

    def judge(self, batch: MultilabelBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return the ids of the true and of the predicted classes, and the probabilities of all classes, for each example."""
        logits = self.forward(batch)
        loss_sum, count = binary_cross_entropy(logits, batch.labels, batch.ids >= 0)
        columns = (batch.ids.tolist(), batch.labels > 0, logits.sigmoid())
        rows = [
            {
                "id": example,
                "labels": labels.nonzero().flatten().tolist(),
                "predictions": (row >= self.threshold).nonzero().flatten().tolist(),
                "probabilities": [round(value, DIGITS) for value in row.tolist()],
            }
            for example, labels, row in zip(*columns, strict=True)
        ]
        return loss_sum, count, rows

    @classmethod
    def statistics(
        cls, rows: Sequence[Row], metrics: Mapping[str, MultilabelMetric], facts: Facts
    ) -> dict[str, Statistics]:
        """Return what the scores are computed from, by their names."""
        predictions, labels = (_grid(rows, name, len(facts.classes)) for name in ("predictions", "labels"))
        return {name: metric.statistics(predictions, labels) for name, metric in metrics.items()}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the texts, the true classes and the predicted ones."""
        return {**self.texts_of(row, split), **{name: self._names(row[name]) for name in ("labels", "predictions")}}

    def _names(self, classes: Sequence[int]) -> str:
        return ", ".join(self.facts.classes[number] for number in classes)

    def details(self, rows: Sequence[Row], split: str) -> dict[str, Any]:
        """Return right and wrong decisions about each class, and the rows with the most confident errors."""
        grids = (_grid(rows, name, len(self.facts.classes)) for name in ("predictions", "labels"))
        predictions, labels = map(torch.from_numpy, grids)
        counts = ((predictions & labels), (predictions & ~labels), (~predictions & labels))
        hits, false_alarms, misses = (count.sum(dim=0).tolist() for count in counts)
        decisions = {
            name: {"found": hits[number], "wrongly found": false_alarms[number], "missed": misses[number]}
            for number, name in enumerate(self.facts.classes)
        }
        difference = torch.tensor([row["probabilities"] for row in rows], dtype=torch.float64) - labels.double()
        confidence = torch.where(predictions != labels, difference.abs(), 0.0).amax(dim=1).tolist()
        order = sorted((row for row, value in enumerate(confidence) if value), key=lambda row: -confidence[row])
        errors = [
            {**self.sample(rows[row], split), "probability": f"{confidence[row]:.3f}"} for row in order[:LARGEST_ERRORS]
        ]
        return {"confusion": decisions, "errors": errors}

    def describe_outputs(self, outputs: Float[Tensor, "B C"]) -> list[tuple[str, dict[str, Any]]]:
        """Return `label, label<tab>probability, probability`, and the probabilities of all classes."""
        answers = []
        for row in outputs.sigmoid().tolist():
            rounded = {name: round(value, DIGITS) for name, value in zip(self.facts.classes, row, strict=True)}
            labels = [name for name, value in zip(self.facts.classes, row, strict=True) if value >= self.threshold]
            line = ", ".join(labels) + "\t" + ", ".join(f"{rounded[name]:.4f}" for name in labels)
            answers.append((line, {"labels": labels, "probabilities": rounded}))
        return answers


def _grid(rows: Sequence[Row], name: str, classes: int) -> Bool[np.ndarray, "N C"]:
    """Return a grid that is True at the classes that each row names."""
    grid = np.zeros((len(rows), classes), bool)
    for line, row in zip(grid, rows, strict=True):
        line[row[name]] = True
    return grid
