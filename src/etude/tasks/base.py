"""Base of all tasks: the exact loss of a step, its seeds and its learning rates.

A task defines how a batch becomes a loss (`loss`), how a batch is judged (`judge`) and how judged rows become scores
(`statistics`, or `scores`; see `etude.tasks.evaluation`). It never divides: `training_step` alone does.

A task is a LightningModule that any `lightning.Trainer` can fit, validate, test and predict with. In a run of etude's it
is given a `RunContext`; elsewhere the length of the training and its micro-batches are those of the trainer, torch's
generator is left as it is, and training is logged through `LightningModule.log`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.models.losses.consistency import Consistency
from etude.models.losses.labelled_states import LabelledStates
from etude.models.sharding import shard
from etude.optim.finetune.base import Finetune
from etude.optim.parameter_groups import build_optimizer, refused_settings, schedules_of_groups
from etude.optim.parameter_schedule import ParameterSchedule, follow
from etude.optim.schedules import Schedule
from etude.seeding import seed_micro_batch
from etude.tasks.evaluation import EvaluatedTask
from etude.tasks.non_finite import NonFinitePolicy, StopOnNonFinite
from etude.tasks.prediction import Prediction
from etude.tasks.running_sums import Sums
from etude.tasks.teaching.teacher import Teacher
from etude.tasks.training_progress import TrainingProgress
from etude.tokenization.base import Tokenizer
from etude.types import Batch, Facts


class Task(EvaluatedTask):
    """A model, its loss and its metrics.

    Attributes:
        non_finite: What is done about losses and gradients that are not finite.
        parameter_schedules: How parameters train, by name; all others that are not frozen train from the start at the
            full rate.
        teacher: A trained task whose probabilities this one learns from; None: from the labels alone.
        consistency: Loss of two passes, which differ by dropout, that training uses in place of `loss`; None: one pass.
        last_logged: Values that training logged last; a new dictionary each time.

    Args:
        facts: What the model must know of the data.
        model: The model, whose parameters are trained.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        gradient_clip: Largest norm of the gradient; None: not clipped. A Trainer's own `gradient_clip_val` goes before it.
    """

    MODEL: ClassVar[type[nn.Module]] = nn.Module
    """The interface of the models that the task trains."""

    BATCH: ClassVar[str]
    """Name of the type of its batches."""

    FORMAT: ClassVar[Literal["text", "jsonl"]] = "text"
    """Default format that `etude predict` reads: lines of text, or records for a task that reads nothing else."""

    def __init__(
        self,
        facts: Facts,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts)
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.gradient_clip = gradient_clip
        self.non_finite: NonFinitePolicy = StopOnNonFinite()
        self.parameter_schedules: Mapping[str, ParameterSchedule] = {}
        self.teacher: Teacher | None = None
        self.consistency: Consistency | None = None
        self.last_logged: dict[str, float] = {}
        self._group_schedules: list[ParameterSchedule] = []
        self._gradient_norm = torch.zeros(())
        self._progress = TrainingProgress()
        self._updating = False  # the gradient of the step is complete

    # What a task must define

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Float[Tensor, ""], Real[Tensor, ""]]:
        """Return the loss summed over the batch, and the count (or the weight) that it is summed over."""

    # What a task may define

    def forward(self, batch: Any) -> Any:
        """Return the model's logits for a batch; each task documents their shape."""
        raise ConfigurationError(f"{type(self).__name__} defines no forward(batch) that returns the model's logits")

    def labelled_states(self, batch: Any) -> LabelledStates:
        """Return the states of a batch that its loss over tokens or classes is computed from.

        Distillation and consistency need it.

        Raises:
            ConfigurationError: If the loss is another one.
        """
        raise ConfigurationError(
            f"distillation: {type(self).__name__} predicts neither tokens nor one of several classes; write distillation=none"
        )

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return the answers to each text, whatever its neighbours are.

        Raises:
            ConfigurationError: If the task reads records, not lines of text (see `AnswersRecords`).
        """
        raise ConfigurationError(f"a {type(self).__name__} reads no lines of text; write format=jsonl (command line)")

    def training_flops(
        self, lengths: Int[np.ndarray, "N ..."], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the floating-point operations of training on each example once; None: unknown.

        Args:
            lengths: Real tokens of each example; of a pair, of both sides.
            counts: Share of each example in the denominator of the loss.
        """
        return None

    def join(self, others: Sequence[Task]) -> None:
        """Predict from now on as an ensemble with the models of other tasks.

        Raises:
            ConfigurationError: If tasks of this kind do not have ensembles.
        """
        raise ConfigurationError(f"ensemble: {type(self).__name__} does not join models; leave it out (command line)")

    # Training

    def adjust(self, finetune: Finetune) -> None:
        """Let only the parameters train that a fine-tuning method selects, as it schedules them; freeze the others.

        Raises:
            ConfigurationError: If the method does not fit the task.
        """
        finetune.prepare(self)
        self.parameter_schedules = finetune.parameter_schedules(self)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in self.parameter_schedules)

    def training_step(self, batch: Batch, index: int) -> Float[Tensor, ""]:
        """Return the micro-batch's share of the step's loss.

        The gradient of a step is that of Σ loss / Σ count over the global batch. Lightning divides what is returned by the
        number of micro-batches and DDP averages over ranks; both are undone here.
        """
        self._updating = False
        self.seed_randomness(self.current_epoch, index)
        total, count, terms = self.training_loss(batch)
        self._progress.losses.add(total, count, terms)
        self.non_finite.record_loss(self.global_step + 1, total)
        return total * (self.micro_batches * self.trainer.world_size / batch.step_count)

    def training_loss(self, batch: Any) -> tuple[Float[Tensor, ""], Real[Tensor, ""], Mapping[str, Float[Tensor, ""]]]:
        """Return the loss of a training step: sum, count, and sums of its terms by name if there is a teacher."""
        if self.teacher is not None:
            loss = self.teacher.loss(self, batch)
            return loss.total, loss.count, {"labels": loss.labels, "distillation": loss.distillation}
        if self.consistency is not None:
            return *self.consistency(*self.labelled_states(_twice(batch)).halves()), {}
        return *self.loss(batch), {}

    def step_flops(
        self, lengths: Int[np.ndarray, "N ..."], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of `training_flops`, of both passes if there are two, and of the teacher; None: unknown.

        Nothing of a teacher has a gradient.
        """
        own = self.training_flops(lengths, counts)
        if own is not None and self.consistency is not None:
            own = 2 * own
        if own is None or self.teacher is None:
            return own
        taught: Int[np.ndarray, " N"] | None = self.teacher.task.training_flops(lengths, counts)
        return None if taught is None else own + taught

    @property
    def micro_batches(self) -> int:
        """Number of batches on this process that share a `step_count`.

        A Trainer of one's own may accumulate more batches than these into an update, or fewer: its gradient is then the
        mean over the steps of the data's plan that it spans.
        """
        if self.run_context is not None:
            return self.run_context.micro_batches
        return self.trainer.accumulate_grad_batches if self._data is None else self._data.micro_batches

    def seed_randomness(self, epoch: int, index: int) -> None:
        """Seed torch for the micro-batch with this index in an epoch, as the process does whose micro-batch it is.

        Outside of a run the generator is left to whoever seeded it.
        """
        if self.run_context is not None:
            index, rank = divmod(index, self.run_context.ranks)
            seed_micro_batch(self.run_context.seed, epoch, index, self.global_rank * self.run_context.ranks + rank)

    def step_ended(self, index: int) -> bool:
        """Return whether the micro-batch with this index in its epoch was the last one of a step."""
        return (index + 1) % self.micro_batches == 0

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer over the parameters that train; its rate is set at each step, from the step alone.

        Raises:
            ConfigurationError: If nothing trains, or the optimizer refuses one of its settings.
        """
        optimizer = build_optimizer(self.optimizer, self, self.parameter_schedules)
        self._group_schedules = schedules_of_groups(optimizer.param_groups, self, self.parameter_schedules)
        return optimizer

    def configure_model(self) -> None:
        """Shard the weights over the ranks, if Lightning's strategy has a mesh of them (see `etude.models.sharding`)."""
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"])

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Compute the gradient and update the parameters.

        Raises:
            ConfigurationError: If the optimizer refuses one of its settings only now.
        """
        try:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        except Exception:
            if not self._updating:
                raise
            rate = max(group["lr"] for group in optimizer.param_groups)
            with refused_settings(f", at a learning rate of {rate:g}"):
                raise

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the whole gradient, and remember it. A step that is left out loses its gradient."""
        limit = self.gradient_clip if gradient_clip_val is None else gradient_clip_val
        by_value = gradient_clip_val is not None and gradient_clip_algorithm == "value"
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
        self._gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(
            parameters, math.inf if limit is None or by_value else limit, self._gradient_norm
        )
        # With 16-mixed an overflow is expected: the scaler leaves the step out and lowers the scale.
        if not self._scaled:
            self.non_finite.record_norm(self.global_step + 1, self._gradient_norm)
        if self.non_finite.skips_step():
            self._progress.losses.drop()
            for parameter in parameters:
                parameter.grad = None  # an optimizer skips such a parameter: no decay, no moments, no count
        else:
            self._progress.losses.settle()
            if by_value:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            if self.run_context is None:
                self._log_step(optimizer)
        self._updating = True

    @property
    def _scaled(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Set the learning rates of the step that follows; parameters whose start is later take no part in it."""
        budget, clock = self._length()
        position = self.seconds() if budget.unit == "second" else self.global_step + 1
        rate = optimizer.defaults["lr"] * self.scheduler.factor(position, budget, clock)
        follow(optimizer, self._group_schedules, rate, self.global_step, clock)

    def _length(self) -> tuple[Duration, Clock]:
        """Return the length of the training, and the clock that converts durations to its steps."""
        if self.run_context is not None:
            return self.run_context.budget, self.run_context.clock
        batches, accumulated = self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
        tokens = math.nan if self._data is None else self._data.clock.tokens_per_step * accumulated / self.micro_batches
        clock = Clock(math.ceil(batches / accumulated), tokens)
        return Duration(float(self.trainer.estimated_stepping_batches), "step"), clock

    def seconds(self) -> float:
        """Return the seconds of training so far, summed over interruptions."""
        return self._progress.seconds()

    def leave_out_of_speed(self, seconds: float) -> None:
        """Leave some seconds since the last line of the record out of the speed that the next one tells."""
        self._progress.leave_out(seconds)

    def on_fit_start(self) -> None:
        """Start the stopwatch, and the watch for losses that are not finite."""
        self._progress.start()
        # A Trainer that accumulates other numbers of batches has other steps than the data's plan.
        planned = self._data is not None and self.micro_batches == self.trainer.accumulate_grad_batches
        examples_of = self.data.examples_of if planned else lambda step: []
        folder = None if self.run_context is None else self.run_context.folder
        self.non_finite.begin(self.device, examples_of, folder, scaled=self._scaled)

    def on_train_end(self) -> None:
        """Outside of a run, look for a step that was not finite since the last look."""
        if self.run_context is None:
            self.non_finite.check()

    def log_training(self, index: int) -> None:
        """Log, if the micro-batch with this index in its epoch ends an interval: called by `LogTraining`, before a save.

        Between intervals nothing is read from the device. Outside of a run, Lightning logs each step instead.
        """
        context = self.run_context
        if context is None or not self.step_ended(index) or self.global_step % context.log_every:
            return
        norm, step = float(self._gradient_norm), self.global_step
        self.non_finite.check()
        self.last_logged = {
            **self._progress.line(self, step, self.data.tokens_at(step), context.folder, context.measured),
            "train/gradient_norm": norm,
            "train/learning_rate": max(group["lr"] for group in self.trainer.optimizers[0].param_groups),
            **self.non_finite.values(),
        }
        for logger in self.trainer.loggers:
            logger.log_metrics(self.last_logged, step)

    def _log_step(self, optimizer: Optimizer) -> None:
        """Log the step through Lightning, and stop at one that is not finite as often as Lightning writes its logs."""
        losses = self._progress.losses
        self.log("train/loss", losses.mean(self), prog_bar=True)
        self.log_dict({f"train/loss_{name}": mean for name, mean in losses.term_means(self).items()})
        self.log("train/gradient_norm", self._gradient_norm)
        self.log("train/learning_rate", max(group["lr"] for group in optimizer.param_groups))
        self.log_dict(self.non_finite.values())
        self._progress.losses = Sums()
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % max(1, interval) == 0:
            self.non_finite.check()

    # What a checkpoint holds besides weights and optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seconds so far and the sums since the last line of the record; refuse to save a state that is not finite."""
        self.non_finite.check()
        self.non_finite.check_weights(self.global_step, self.parameters())
        checkpoint["progress"] = {**self._progress.state_dict(self), "guard": self.non_finite.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added; a checkpoint of weights alone has none of it."""
        progress = checkpoint.get("progress")
        if progress is not None:
            self._progress.load_state_dict(progress, self.global_rank)
            self.non_finite.load_state_dict(progress["guard"])


def _twice(batch: Any) -> Any:
    """Return a batch with all of its examples twice: side by side, two passes are faster than one after the other."""
    grids = {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    return batch._replace(**{name: torch.cat([grid, grid]) for name, grid in grids.items()})
