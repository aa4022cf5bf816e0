"""Regression: a number for each text, or pair of texts.

Axes: B examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from etude.metrics.regression import MeanSquaredError, NumberMetric, Pearson, Spearman
from etude.metrics.score import Statistics
from etude.models.base import OutputLayer, TextEncoder
from etude.models.losses.targets import squared_error
from etude.models.pooling import PoolingName
from etude.optim.schedules import Schedule
from etude.tasks.pooled import LARGEST_ERRORS, Pooled
from etude.tasks.running_sums import Row
from etude.types import Facts, RegressionBatch

STANDARD_METRICS: Mapping[str, NumberMetric] = {
    "pearson": Pearson(),
    "spearman": Spearman(),
    "mean_squared_error": MeanSquaredError(),
}

DIGITS = 6
"""Digits of numbers in an answer."""


class Regression(Pooled):
    """Squared error, in units of the training numbers' variance, so that it does not depend on their scale.

    Args:
        facts: Vocabulary, special ids, the number of texts of an example, and mean and deviation of the training numbers.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        pooling: `mean` of the states of real tokens, the state of the `first`, or that state through a `pooler`.
        head_dropout: Dropout on the pooled state.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        metrics: Metrics that compare predicted numbers with the true ones, by the name of the score; None:
            `STANDARD_METRICS`.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/pearson", "val/spearman", "val/mean_squared_error")
    """Names with `STANDARD_METRICS`; other metrics replace all but the loss."""

    STANDARD: ClassVar[Mapping[str, NumberMetric]] = STANDARD_METRICS
    METRIC: ClassVar[type | None] = NumberMetric
    BATCH: ClassVar[str] = "RegressionBatch"

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        pooling: PoolingName = "first",
        head_dropout: float = 0.1,
        gradient_clip: float | None = 1.0,
        metrics: Mapping[str, NumberMetric] | None = None,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, 1, pooling, head_dropout, gradient_clip)
        self.metrics = self.checked_metrics(metrics)

    def rows_of(self, pretrained: OutputLayer) -> tuple[Tensor, Tensor] | None:
        """Return the only row of a pretrained head, whose output is in the data's own unit; None: it has several."""
        if len(pretrained.names) != 1:
            return None
        return pretrained.weight / self.facts.scale, (pretrained.bias - self.facts.center) / self.facts.scale

    def loss(self, batch: RegressionBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the squared error summed over examples, in units of the variance."""
        return self._error(self.forward(batch), batch)

    def _error(
        self, outputs: Float[Tensor, "B 1"], batch: RegressionBatch
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        targets = (batch.labels - self.facts.center) / self.facts.scale
        return squared_error(outputs.squeeze(1), targets, batch.ids >= 0)

    def values(self, outputs: Float[Tensor, "B 1"]) -> list[float]:
        """Return the predicted numbers in the data's own unit."""
        return (outputs.squeeze(1).double() * self.facts.scale + self.facts.center).tolist()

    def judge(self, batch: RegressionBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return the true number and the predicted one for each example."""
        outputs = self.forward(batch)
        columns = (batch.ids.tolist(), batch.labels.tolist(), self.values(outputs))
        rows = [{"id": example, "label": label, "value": value} for example, label, value in zip(*columns, strict=True)]
        return *self._error(outputs, batch), rows

    @classmethod
    def statistics(
        cls, rows: Sequence[Row], metrics: Mapping[str, NumberMetric], facts: Facts
    ) -> dict[str, Statistics]:
        """Return what the scores are computed from, by their names."""
        values, labels = (np.array([row[name] for row in rows], np.float64) for name in ("value", "label"))
        return {name: metric.statistics(values, labels) for name, metric in metrics.items()}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the texts, the true number and the predicted one."""
        return {**self.texts_of(row, split), "label": f"{row['label']:.4g}", "value": f"{row['value']:.4g}"}

    def details(self, rows: Sequence[Row], split: str) -> dict[str, Any]:
        """Return the rows with the largest errors."""
        order = sorted(rows, key=lambda row: (-abs(row["value"] - row["label"]), row["id"]))
        return {"errors": [self.sample(row, split) for row in order[:LARGEST_ERRORS]]}

    def describe_outputs(self, outputs: Float[Tensor, "B 1"]) -> list[tuple[str, dict[str, Any]]]:
        """Return the number."""
        return [(f"{value:.4f}", {"value": round(value, DIGITS)}) for value in self.values(outputs)]
