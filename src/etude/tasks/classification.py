"""Classification of texts, or of pairs of texts: one of several classes.

Axes: B examples, L positions, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.calibration import calibration_error, fitted_temperature
from etude.metrics.classification import Accuracy, ClassF1, ClassMetric
from etude.metrics.precision_recall import precision_recall
from etude.metrics.reliability import BINS, reliability
from etude.metrics.score import Statistics
from etude.models.base import TextEncoder
from etude.models.losses.consistency import Consistency
from etude.models.losses.labelled_states import LabelledStates
from etude.models.pooling import PoolingName
from etude.optim.schedules import Schedule
from etude.tasks.pooled import LARGEST_ERRORS, Pooled
from etude.tasks.running_sums import Row
from etude.types import IGNORED, ClassificationBatch, Facts

STANDARD_METRICS: Mapping[str, ClassMetric] = {"accuracy": Accuracy(), "macro_f1": ClassF1()}

DIGITS = 5
"""Digits of logits in the rows of an evaluation: probabilities are then right to four. Calibration is told with as many."""

CURVE_POINTS = 21
"""Points of a curve of precision over recall that trackers show."""


class Classification(Pooled):
    """Cross-entropy over classes; weighted in training, if the data weights its classes.

    Args:
        facts: Vocabulary, special ids, classes, and the number of texts of an example.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        pooling: `mean` of the states of real tokens, the state of the `first`, or that state through a `pooler`.
        head_dropout: Dropout on the pooled state.
        label_smoothing: ε of Szegedy et al. 2016, section 7; only in training.
        consistency: Loss of two passes that training uses in place of the cross-entropy; None: one pass.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        metrics: Metrics that compare predicted classes with the true ones, by the name of the score; None:
            `STANDARD_METRICS`.

    Attributes:
        temperature: Divisor of the logits for calibrated probabilities; None before it is fitted.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy", "val/macro_f1")
    """Names with `STANDARD_METRICS`; other metrics replace all but the loss."""

    STANDARD: ClassVar[Mapping[str, ClassMetric]] = STANDARD_METRICS
    METRIC: ClassVar[type | None] = ClassMetric
    BATCH: ClassVar[str] = "ClassificationBatch"

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        pooling: PoolingName = "first",
        head_dropout: float = 0.1,
        label_smoothing: float = 0.0,
        consistency: Consistency | None = None,
        gradient_clip: float | None = 1.0,
        metrics: Mapping[str, ClassMetric] | None = None,
    ) -> None:
        if len(facts.classes) < 2:
            raise ConfigurationError(f"classification needs two classes or more; the data has {facts.classes}")
        outputs = len(facts.classes)
        super().__init__(facts, model, optimizer, scheduler, outputs, pooling, head_dropout, gradient_clip)
        self.label_smoothing = label_smoothing
        self.consistency = consistency
        self.metrics = self.checked_metrics(metrics)
        self.temperature: float | None = None
        for metric in self.metrics.values():
            metric.check(facts.classes)

    def loss(self, batch: ClassificationBatch) -> tuple[Float[Tensor, ""], Real[Tensor, ""]]:
        """Return the cross-entropy summed over examples, smoothed and weighted in training only."""
        return self.labelled_states(batch).cross_entropy()

    def labelled_states(self, batch: ClassificationBatch) -> LabelledStates:
        """Return the pooled states and the classes; smoothed and weighted in training only."""
        return LabelledStates(
            self.pooled(batch.tokens, batch.mask, batch.segments),
            self.head.weight,
            batch.labels,
            bias=self.head.bias,
            weights=batch.weights if self.training else None,
            smoothing=self.label_smoothing if self.training else 0.0,
        )

    def judge(self, batch: ClassificationBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return label, predicted class, its probability and the logits for each example."""
        logits = self.forward(batch)
        loss_sum = F.cross_entropy(logits, batch.labels, reduction="sum", ignore_index=IGNORED)
        probability, classes = logits.softmax(dim=1).max(dim=1)
        columns = (batch.ids.tolist(), batch.labels.tolist(), classes.tolist(), probability.tolist(), logits.tolist())
        rows = [
            {
                "id": example,
                "label": label,
                "prediction": prediction,
                "probability": confidence,
                "logits": [round(value, DIGITS) for value in row],
            }
            for example, label, prediction, confidence, row in zip(*columns, strict=True)
        ]
        return loss_sum, (batch.labels != IGNORED).sum(), rows

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, ClassMetric], facts: Facts) -> dict[str, Statistics]:
        """Return what the scores are computed from, by their names."""
        labels, predictions = (np.array([row[name] for row in rows], np.int64) for name in ("label", "prediction"))
        return {name: metric.statistics(predictions, labels, facts.classes) for name, metric in metrics.items()}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the texts, label, prediction and probability."""
        classes = self.facts.classes
        return {
            **self.texts_of(row, split),
            "label": classes[row["label"]],
            "prediction": classes[row["prediction"]],
            "probability": f"{row['probability']:.3f}",
        }

    def calibrate(self, rows: Sequence[Row]) -> None:
        """Fit the temperature on rows that were not trained on (Guo et al. 2017, section 4.2)."""
        self.temperature = fitted_temperature(*_logits_and_labels(rows))

    def details(self, rows: Sequence[Row], split: str) -> dict[str, Any]:
        """Return the calibration, the confusion matrix, and the most confident errors."""
        classes = self.facts.classes
        pairs = Counter((row["label"], row["prediction"]) for row in rows)
        confusion: dict[str, dict[str, int]] = {}
        for (label, prediction), count in sorted(pairs.items()):
            confusion.setdefault(classes[label], {})[classes[prediction]] = count
        errors = [row for row in rows if row["label"] != row["prediction"]]
        errors.sort(key=lambda row: (-row["probability"], row["id"]))
        return {
            "calibration": self._calibration(rows),
            "confusion": confusion,
            "errors": [self.sample(row, split) for row in errors[:LARGEST_ERRORS]],
        }

    def curves(self, rows: Sequence[Row]) -> dict[str, tuple[list[str], list[list[Any]]]]:
        """Return the confusion matrix, reliability by confidence, and precision over recall of each class."""
        if not rows:
            return {}
        logits, truth = _logits_and_labels(rows)
        labels = truth.numpy()
        probabilities, classes = logits.softmax(dim=1).numpy(), self.facts.classes
        pairs = sorted(Counter((row["label"], row["prediction"]) for row in rows).items())
        counts = [[classes[label], classes[prediction], count] for (label, prediction), count in pairs]
        bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
        points = [
            [name, *point]
            for number, name in enumerate(classes)
            if (curve := precision_recall(probabilities[:, number], labels == number)) is not None
            for point in curve.points(CURVE_POINTS)
        ]
        return {
            "confusion": (["label", "prediction", "count"], counts),
            "reliability": (
                ["confidence", "accuracy", "rows"],
                [[one.confidence, one.accuracy, one.rows] for one in bins],
            ),
            "precision_recall": (["class", "threshold", "precision", "recall"], points),
        }

    def _calibration(self, rows: Sequence[Row]) -> dict[str, Any]:
        logits, labels = _logits_and_labels(rows)
        before: dict[str, Any] = {"bins": BINS, "error": round(calibration_error(logits, labels), DIGITS)}
        if self.temperature is None:
            return before
        after = round(calibration_error(logits, labels, self.temperature), DIGITS)
        told = round(self.temperature, DIGITS)
        return {**before, "temperature": told, "fitted_on": "val", "error_at_temperature": after}

    def describe_outputs(self, outputs: Float[Tensor, "B C"]) -> list[tuple[str, dict[str, Any]]]:
        """Return `label<tab>probability`, and the probabilities of all classes."""
        classes = self.facts.classes
        probabilities = outputs.softmax(dim=1)
        answers = []
        for row, best in zip(probabilities.tolist(), probabilities.argmax(dim=1).tolist(), strict=True):
            rounded = {name: round(value, DIGITS) for name, value in zip(classes, row, strict=True)}
            values = {"label": classes[best], "probability": rounded[classes[best]], "probabilities": rounded}
            answers.append((f"{classes[best]}\t{row[best]:.4f}", values))
        return answers


def _logits_and_labels(rows: Sequence[Row]) -> tuple[Float[Tensor, "N C"], Int[Tensor, " N"]]:
    logits = torch.tensor([row["logits"] for row in rows], dtype=torch.float64)
    return logits, torch.tensor([row["label"] for row in rows])
