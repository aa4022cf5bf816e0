"""What every task shares: the exact loss of a step, its seeds, its learning rate, and sums that become averages once.

A task says how a batch becomes a loss (`loss`), how a batch is judged (`judge`) and how judged rows become scores
(`statistics`, or `scores`). It never divides: `training_step` is the one place where a loss is divided.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, cast

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.resampling import all_scored
from etude.metrics.score import Score, Statistics
from etude.optim.finetune.base import Finetune
from etude.optim.parameter_groups import courses_of, parameter_groups
from etude.optim.parameter_schedule import ParameterSchedule, follow
from etude.seeding import seed_micro_batch
from etude.tasks.non_finite import NonFinitePolicy, StopOnNonFinite
from etude.tasks.prediction import Output, Prediction
from etude.tasks.run_context import RunContext, TaskData
from etude.tasks.running_sums import Row, Sums, gathered
from etude.tasks.training_progress import TrainingProgress
from etude.tokenization.base import Tokenizer
from etude.types import Batch, Facts


class Schedule(Protocol):
    """The learning rate's course (see `etude.optim.schedules`)."""

    warmup: str

    def multiplier(self, position: float, warmup: float, total: float) -> float:
        """Return the factor on the optimizer's rate."""
        ...


class Task(lightning.LightningModule):
    """A model, its loss and its metrics.

    Attributes:
        timetable: What the task knows of the run.
        guard: What is done about losses and gradients that are not finite.
        metrics: What `scores` are made of, by their names.
        courses: How parameters train, by name; all others that are not frozen train from the start at the full rate.
        bootstrap: Resamplings for the confidence intervals of scores; 0: none.
        sample_count: Rows that an evaluation leaves in `samples`.
        samples: The first rows of the last evaluation, as texts.
        rows: All rows of the last evaluation, in the order of the data.
        results: The scores of the last evaluation.
        last_logged: What training logged last.

    Args:
        facts: What the model must know of the data.
        model: The model, whose parameters are trained.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]]
    BATCH: ClassVar[str]

    STANDARD: ClassVar[Mapping[str, Any]] = {}
    """The metrics where a configuration names none, by the names of their scores."""

    FORMAT: ClassVar[Literal["text", "jsonl"]] = "text"
    """What `etude predict` reads unless it is told: lines of text, or records, for a task that reads nothing else."""

    def __init__(
        self,
        facts: Facts,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.facts = facts
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.gradient_clip = gradient_clip
        self.timetable = RunContext(0, 1, 0.0, 1.0, in_seconds=False, log_every=50)
        self.guard: NonFinitePolicy = StopOnNonFinite()
        self.metrics: Mapping[str, Any] = self.STANDARD
        self.courses: Mapping[str, ParameterSchedule] = {}
        self.bootstrap = 0
        self.sample_count = 0
        self.samples: list[dict[str, str]] = []
        self.rows: list[Row] = []
        self.results: dict[str, Score] = {}
        self.last_logged: dict[str, float] = {}
        self._group_courses: list[ParameterSchedule] = []
        self._evaluated: list[Row] = []
        self._evaluation = Sums()
        self._gradient_norm = torch.zeros(())
        self._progress = TrainingProgress()

    # What a task must say

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Float[Tensor, ""], Real[Tensor, ""]]:
        """Return the loss summed over the batch, and what it is summed over: a number of things, or their weight."""

    @abstractmethod
    def judge(self, batch: Any, split: str) -> tuple[Float[Tensor, ""], Real[Tensor, ""], list[Row]]:
        """Return loss and count as `loss` does, and a row for each example: its `id` (-1: a filler), and what `scores` needs."""

    @abstractmethod
    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return a row as texts that a person can read."""

    # What a task may say

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return scores of all the rows of a split, by name: those of `statistics`, where a task has no others."""
        return all_scored(self.statistics(rows, self.metrics, self.facts), self.bootstrap)

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, Any], facts: Facts) -> dict[str, Statistics]:
        """Return what scores of rows are computed from, by the names of the scores.

        No model is asked, so that runs can be compared by the rows that their evaluations left.

        Args:
            rows: Of a split, as `concluded` returned them.
            metrics: Those of the task, or some of them, by the names of their scores.
            facts: What the task knew of the data.
        """
        return {}

    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Return one line of output for each text, whatever its neighbours are.

        Raises:
            ConfigurationError: If the task reads no lines of text but records (see `AnswersRecords`).
        """
        raise ConfigurationError(f"a {type(self).__name__} reads no lines of text; write format=jsonl (command line)")

    def concluded(self, rows: list[Row], split: str) -> list[Row]:
        """Return the rows that are scored and kept, of all that `judge` returned for a split, in the order of the data."""
        return rows

    @property
    def text_limit(self) -> int | None:
        """The most tokens of a text that `predict_texts` reads; None: all."""
        return None

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return the answers to each text, whatever its neighbours are, the one of `predict_texts` first."""
        limit = self.text_limit
        cut = [limit is not None and len(ids) > limit for ids in tokenizer.encode(texts)]
        answers = self.predict_texts(texts, tokenizer)
        return [Prediction((Output(text),), short) for text, short in zip(answers, cut, strict=True)]

    def training_flops(
        self, lengths: Int[np.ndarray, "N ..."], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the floating-point operations of training on each example once; None: not known.

        Args:
            lengths: Real tokens of each example; of a pair, of both sides.
            counts: What each adds to the denominator of the loss.
        """
        return None

    def details(self, rows: Sequence[Row], split: str) -> dict[str, Any]:
        """Return what an evaluation tells of its rows besides scores, as plain values.

        What the report and dashboards show of it: `calibration` (values by name), `confusion` (of what was right, counts
        of what was made of it), `errors` (rows as `sample` returns them, the worst first).
        """
        return {}

    def join(self, others: Sequence[Task]) -> None:
        """Predict from now on as an ensemble with the models of other tasks.

        Raises:
            ConfigurationError: If tasks of this kind do not have ensembles.
        """
        raise ConfigurationError(f"ensemble: {type(self).__name__} does not join models; leave it out (command line)")

    # Training

    def adjust(self, finetune: Finetune) -> None:
        """Let only those parameters train that a fine-tuning names, as it says; freeze the others.

        Raises:
            ConfigurationError: If the fine-tuning does not fit the task.
        """
        finetune.prepare(self)
        self.courses = finetune.courses(self)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in self.courses)

    def training_step(self, batch: Batch, index: int) -> Float[Tensor, ""]:
        """Return the micro-batch's share of the step's loss.

        The gradient of a step is that of Σ loss / Σ count over the global batch. Lightning divides what is returned by the
        micro-batches and DDP averages over ranks; both are undone here.
        """
        self.seed_randomness(self.current_epoch, index)
        total, count = self.loss(batch)
        self._progress.losses.add(total, count)
        self.guard.saw_loss(self.global_step + 1, total)
        return total * (self.timetable.micro_batches * self.trainer.world_size / batch.step_count)

    def seed_randomness(self, epoch: int, index: int) -> None:
        """Seed torch for the micro-batch with this index in an epoch; where one process does the work of several, as they do."""
        index, rank = divmod(index, self.timetable.ranks)
        seed_micro_batch(self.timetable.seed, epoch, index, self.global_rank * self.timetable.ranks + rank)

    def step_ended(self, index: int) -> bool:
        """Whether the micro-batch with this index in its epoch was the last one of a step."""
        return (index + 1) % self.timetable.micro_batches == 0

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer over the parameters that train; its rate is set at each step, from the step alone.

        Raises:
            ConfigurationError: If nothing trains, or the optimizer refuses one of its values.
        """
        decay = getattr(self.optimizer, "keywords", {}).get("weight_decay", 0.0)
        groups = parameter_groups(self, decay, self.courses)
        self._group_courses = courses_of(groups, self, self.courses)
        try:
            return self.optimizer(groups)
        except ValueError as error:
            raise ConfigurationError(f"optimizer: {error}") from error

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the whole gradient's norm, and remember it. A step that the guard leaves out loses its gradient."""
        limit = self.gradient_clip if self.gradient_clip is not None else float("inf")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        # With 16-mixed an overflow is no accident: the scaler leaves the step out and takes a smaller scale.
        if not self._scaled:
            self.guard.saw_norm(self.global_step + 1, self._gradient_norm)
        if self.guard.leaves_out():
            self._progress.losses.drop()
            for parameter in parameters:
                parameter.grad = None  # an optimizer passes over such a parameter: no decay, no moments, no count
        else:
            self._progress.losses.settle()

    @property
    def _scaled(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Set the learning rates of the step that follows, of which some parameters may not be a part yet."""
        timetable = self.timetable
        position = self.seconds() if timetable.in_seconds else self.global_step + 1
        factor = self.scheduler.multiplier(position, timetable.warmup, timetable.total)
        rate = optimizer.defaults["lr"] * factor
        follow(optimizer, self._group_courses, rate, self.global_step, timetable.clock)

    def seconds(self) -> float:
        """Return the seconds of training so far, over all the times that the run was continued."""
        return self._progress.seconds()

    def on_fit_start(self) -> None:
        """Start the stopwatch, and tell the guard what it watches."""
        self._progress.start()
        self.guard.begin(self.device, self.texts.examples_of, self.timetable.run, scaled=self._scaled)

    def log_training(self, index: int) -> None:
        """Log, if the micro-batch with this index in its epoch ends an interval: called by `LogTraining`, before a save.

        Between intervals nothing is read from the device.
        """
        if not self.step_ended(index) or self.global_step % self.timetable.log_every:
            return
        norm, step = float(self._gradient_norm), self.global_step
        self.guard.check()
        self.last_logged = {
            **self._progress.line(self, step, self.texts.tokens_at(step), self.timetable.run),
            "train/gradient_norm": norm,
            "train/learning_rate": max(group["lr"] for group in self.trainer.optimizers[0].param_groups),
            **self.guard.values(),
        }
        for logger in self.trainer.loggers:
            logger.log_metrics(self.last_logged, step)

    @property
    def texts(self) -> TaskData:
        """The data module of the trainer."""
        return cast(TaskData, self.trainer.datamodule)  # type: ignore[attr-defined]

    # Evaluation: the same for validation while training and for `etude evaluate`

    def validation_step(self, batch: Batch, index: int) -> None:
        """Judge a batch of the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, index: int) -> None:
        """Judge a batch of the split that is evaluated."""
        self._evaluate(batch, self.texts.evaluated)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split."""
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        """Score the split that is evaluated."""
        self._conclude(self.texts.evaluated)

    def _evaluate(self, batch: Batch, split: str) -> None:
        loss_sum, count, rows = self.judge(batch, split)
        self._evaluation.add(loss_sum, count)
        self._evaluated += [row for row in rows if row["id"] >= 0]

    def _conclude(self, split: str) -> None:
        """Bring the rows of all ranks together, in the order of the data, and score them on every rank alike."""
        self.rows = self.concluded(sorted(gathered(self._evaluated), key=lambda row: row["id"]), split)
        loss_sum, count = self._evaluation.total(self)
        self.results = {"loss": Score(loss_sum / count), **self.scores(self.rows)}
        self._evaluated, self._evaluation = [], Sums()
        self.samples = [self.sample(row, split) for row in self.rows[: self.sample_count]]
        values = {f"{split}/{name}": score.value for name, score in self.results.items()}
        # To the loggers directly: Lightning would log a validation one step too early.
        self.log_dict(values, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics(values, self.global_step)

    # What a checkpoint holds besides weights and optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is counted since the last line of the record, and the seconds. A broken state is never kept as a good one."""
        self.guard.check()
        self.guard.check_weights(self.global_step, self.parameters())
        checkpoint["progress"] = {**self._progress.state_dict(self), "guard": self.guard.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added."""
        progress = checkpoint["progress"]
        self._progress.load_state_dict(progress, self.global_rank)
        self.guard.load_state_dict(progress["guard"])
