"""Evaluation of a task: batches are judged, and the rows of a whole split are scored once.

The same code validates while training and scores for `etude evaluate`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import lightning
import torch
from jaxtyping import Float, Real
from torch import Tensor

from etude.errors import ConfigurationError
from etude.metrics.classification import ClassMetric
from etude.metrics.multilabel import MultilabelMetric
from etude.metrics.regression import NumberMetric
from etude.metrics.resampling import all_scored
from etude.metrics.score import Score, Statistics
from etude.metrics.tagging import TagMetric
from etude.tasks.run_context import RunContext, TaskData
from etude.tasks.running_sums import Row, Sums, gathered
from etude.types import Batch, Facts

LABEL_METRICS = (ClassMetric, MultilabelMetric, NumberMetric, TagMetric)
"""Metrics that compare labels; all others compare texts."""


class EvaluatedTask(lightning.LightningModule):
    """Part of a task that judges batches and scores splits.

    Attributes:
        facts: What the model must know of the data.
        run_context: What the task knows of its run; None: it is trained or evaluated by a Trainer of one's own.
        metrics: Metrics that `scores` are made of, by name.
        bootstrap: Number of resamplings for the confidence intervals of scores; 0: no intervals.
        sample_count: Number of rows that an evaluation leaves in `samples`.
        samples: The first rows of the last evaluation, as texts.
        rows: All rows of the last evaluation, in the order of the data.
        results: Scores of the last evaluation.

    Args:
        facts: What the model must know of the data.
    """

    METRICS: ClassVar[tuple[str, ...]]
    """Names of the values that a validation logs."""

    STANDARD: ClassVar[Mapping[str, Any]] = {}
    """Metrics that are used if a configuration names none, by the names of their scores."""

    METRIC: ClassVar[type | None] = None
    """Class of the metrics of labels that the task takes; None: metrics of texts."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.facts = facts
        self.run_context: RunContext | None = None
        self.metrics: Mapping[str, Any] = self.STANDARD
        self.bootstrap = 0
        self.sample_count = 0
        self.samples: list[dict[str, str]] = []
        self.rows: list[Row] = []
        self.results: dict[str, Score] = {}
        self._evaluated: list[Row] = []
        self._evaluation = Sums()
        self._part_sums: dict[str, Sums] = {}

    # What a task must define

    @abstractmethod
    def judge(self, batch: Any, split: str) -> tuple[Float[Tensor, ""], Real[Tensor, ""], list[Row]]:
        """Return loss and count as `loss` does, and a row per example: its `id` (-1: a filler), and what `scores` needs."""

    @abstractmethod
    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return a row as texts that a person can read."""

    # What a task may define

    def answers(self, batch: Any) -> list[Row]:
        """Return what the task predicts for a batch: a row per example, with its `id` (-1: a filler).

        By default the rows of `judge`.
        """
        return self.judge(batch, self.evaluated_split)[2]

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return scores of all the rows of a split, by name; by default those of `statistics`."""
        return all_scored(self.statistics(rows, self.metrics, self.facts), self.bootstrap)

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, Any], facts: Facts) -> dict[str, Statistics]:
        """Return what scores of rows are computed from, by the names of the scores.

        No model takes part, so that runs can be compared by the rows that their evaluations left.

        Args:
            rows: Rows of a split, as `concluded` returned them.
            metrics: Metrics of the task, or some of them, by the names of their scores.
            facts: What the task knew of the data.
        """
        return {}

    def concluded(self, rows: list[Row], split: str) -> list[Row]:
        """Return the rows that are scored and kept, given all that `judge` returned for a split, in the order of the data."""
        return rows

    def details(self, rows: Sequence[Row], split: str) -> dict[str, Any]:
        """Return what an evaluation reports about its rows besides scores, as plain values.

        The report and dashboards show `calibration` (values by name), `confusion` (for each true class, counts of the
        predicted ones) and `errors` (rows as `sample` returns them, the worst first).
        """
        return {}

    def curves(self, rows: Sequence[Row]) -> dict[str, tuple[list[str], list[list[Any]]]]:
        """Return what dashboards draw of the rows of a split: columns and rows of a table, by name."""
        return {}

    # What every task has

    @classmethod
    def checked_metrics(cls, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the metrics of a configuration, or the standard ones in place of None.

        Raises:
            ConfigurationError: If one of them compares something else than the task's outputs.
        """
        for name, metric in (metrics or {}).items():
            of_texts = not isinstance(metric, LABEL_METRICS) and callable(getattr(metric, "statistics", None))
            if not (of_texts if cls.METRIC is None else isinstance(metric, cls.METRIC)):
                kinds = dict.fromkeys(type(standard).__name__ for standard in cls.STANDARD.values())
                others = f"take metrics such as {', '.join(kinds)}, or " if kinds else ""
                raise ConfigurationError(
                    f"task.metrics.{name}: {type(metric).__name__} does not compare the outputs of {cls.__name__}; "
                    f"{others}write ~task.metrics.{name}"
                )
        return dict(cls.STANDARD if metrics is None else metrics)

    @property
    def data(self) -> TaskData:
        """The data module of the trainer.

        Raises:
            ConfigurationError: If the trainer was given loaders alone.
        """
        if self._data is None:
            raise ConfigurationError(
                f"{type(self).__name__} needs its data module for this, and the Trainer has none; give it datamodule=…, not "
                "loaders alone"
            )
        return self._data

    @property
    def _data(self) -> TaskData | None:
        module = getattr(self._trainer, "datamodule", None)  # Lightning's `trainer` refuses where there is none
        return cast(TaskData, module) if hasattr(type(module), "clock") else None  # another's knows no texts

    @property
    def evaluated_split(self) -> str:
        """Name of the split that `test_step` and `predict_step` are given."""
        return "test" if self._data is None else self._data.evaluated

    def validation_step(self, batch: Batch, index: int) -> None:
        """Judge a batch of the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, index: int) -> None:
        """Judge a batch of the split that is evaluated."""
        self._evaluate(batch, self.evaluated_split)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split."""
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        """Score the split that is evaluated."""
        self._conclude(self.evaluated_split)

    @torch.no_grad()
    def predict_step(self, batch: Batch, index: int = 0) -> list[Row]:
        """Return what the task predicts for a batch: the rows of `answers`, without fillers."""
        return [row for row in self.answers(batch) if row["id"] >= 0]

    def _evaluate(self, batch: Batch, split: str) -> None:
        loss_sum, count, rows = self.judge(batch, split)
        self._evaluation.add(loss_sum, count)
        real = [row for row in rows if row["id"] >= 0]
        self._evaluated += real
        for part, examples in self._examples_of_parts(split).items():
            if real and real[0]["id"] in examples:  # a batch is of one part
                self._part_sums.setdefault(part, Sums()).add(loss_sum, count)

    def _examples_of_parts(self, split: str) -> dict[str, range]:
        """Return the examples of each part of a split; none where the data has no parts."""
        return {} if self._data is None else self._data.parts_of(split)

    def _scores_of_parts(self, split: str) -> dict[str, Score]:
        """Return loss and scores of each part of a mixture, `reviews/loss` and so on, or direction, `loss_en-de`."""
        scores = dict[str, Score]()
        for part, examples in self._examples_of_parts(split).items():
            loss_sum, count = self._part_sums.get(part, Sums()).total(self)
            found = {
                "loss": Score(loss_sum / count),
                **self.scores([row for row in self.rows if row["id"] in examples]),
            }
            # The scores of single rows are in those of the whole split.
            named = {self.data.name_of_part_score(part, name): score for name, score in found.items()}
            scores |= {name: replace(score, statistics=None) for name, score in named.items()}
        return scores

    def _conclude(self, split: str) -> None:
        """Gather the rows of all ranks, in the order of the data, and score them identically on every rank."""
        self.rows = self.concluded(sorted(gathered(self._evaluated), key=lambda row: row["id"]), split)
        loss_sum, count = self._evaluation.total(self)
        self.results = {"loss": Score(loss_sum / count), **self.scores(self.rows), **self._scores_of_parts(split)}
        self._evaluated, self._evaluation, self._part_sums = [], Sums(), {}
        self.samples = [self.sample(row, split) for row in self.rows[: self.sample_count]]
        values = {f"{split}/{name}": score.value for name, score in self.results.items()}
        if self.run_context is None:
            self.log_dict(values)
            return
        # To the loggers directly: Lightning would log a validation one step too early.
        self.log_dict(values, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics(values, self.global_step)
