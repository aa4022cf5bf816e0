"""How far a training is, for people: on stderr, in steps of the whole budget."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.callbacks.progress.progress_bar import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor


@runtime_checkable
class Logs(Protocol):
    """A task that keeps what it logged last; a new dictionary each time."""

    last_logged: dict[str, float]


class StepProgressBar(ProgressBar):
    """A bar where there is a terminal; elsewhere one plain line each time that the task logs. Scores in either case.

    Args:
        stream: Where to write; by default stderr, since stdout is for data.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = sys.stderr if stream is None else stream
        self._enabled = True
        self._training: Tqdm | None = None
        self._evaluation: Tqdm | None = None
        self._shown: dict[str, float] = {}
        self._started = (0, 0.0)  # step and time

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Write a line without breaking a bar."""
        if self._enabled:
            Tqdm.write(sep.join(map(str, args)), file=self._stream)

    # Training

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar where the run is."""
        self._started = (trainer.global_step, time.monotonic())
        self._training = self._bar("training", _budget(trainer), trainer.global_step, "step")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show what was logged after the batch before: tasks log after callbacks were told of its end."""
        self._show_logged(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._training is not None:
            self._training.update(trainer.global_step - self._training.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what was logged last, and end the bar."""
        self._show_logged(trainer, pl_module)
        if self._training is not None:
            self._training.close()

    def _show_logged(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if not isinstance(task, Logs) or task.last_logged is self._shown or not task.last_logged:
            return
        self._shown = task.last_logged
        if self._training is not None:
            self._training.set_postfix_str("  ".join(describe(self._shown)), refresh=False)
        else:
            self.print("  ".join([self._place(trainer), *describe(self._shown), *self._remaining(trainer)]))

    def _place(self, trainer: pl.Trainer) -> str:
        budget = _budget(trainer)
        return f"step {trainer.global_step:,}" + (f"/{budget:,}" if budget else "")

    def _remaining(self, trainer: pl.Trainer) -> list[str]:
        budget, (first, began) = _budget(trainer), self._started
        if budget is None or trainer.global_step == first:
            return []
        seconds = (time.monotonic() - began) / (trainer.global_step - first) * (budget - trainer.global_step)
        return [f"remaining {Tqdm.format_interval(seconds)}"]

    # Validation and test

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a second bar."""
        self._show_logged(trainer, pl_module)
        self._evaluation = self._bar("validation", _count(trainer.num_val_batches), 0, "batch")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a bar."""
        self._evaluation = self._bar("test", _count(trainer.num_test_batches), 0, "batch")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._evaluation is not None:
            self._evaluation.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the bar by the scores."""
        self._end_evaluation(trainer, "val/")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the bar by the scores."""
        self._end_evaluation(trainer, "test/")

    on_test_batch_end = on_validation_batch_end

    def _end_evaluation(self, trainer: pl.Trainer, prefix: str) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
        scores = [
            f"{name} {float(value):.4g}" for name, value in trainer.callback_metrics.items() if name.startswith(prefix)
        ]
        if scores and not trainer.sanity_checking:
            self.print("  ".join([self._place(trainer), *scores]))

    def _bar(self, description: str, total: int | None, initial: int, unit: str) -> Tqdm | None:
        """Return a bar, or None where a carriage return would not move a cursor."""
        if not self._enabled or not self._stream.isatty():
            return None
        return Tqdm(
            desc=description,
            total=total,
            initial=initial,
            unit=unit,
            file=self._stream,
            dynamic_ncols=True,
            leave=unit == "step",
        )


def describe(logged: Mapping[str, float | Tensor]) -> list[str]:
    """Return what a person wants to see at once of logged values: the loss and the speed, where they are there."""
    shown = []
    if "train/loss" in logged:
        shown.append(f"loss {float(logged['train/loss']):.4f}")
    if "speed/tokens_per_second" in logged:
        shown.append(f"{float(logged['speed/tokens_per_second']):,.0f} tokens/s")
    return shown


def _budget(trainer: pl.Trainer) -> int | None:
    """Return the steps of the whole run, or None where its budget is a time."""
    return trainer.max_steps if trainer.max_steps > 0 else None


def _count(batches: list[int | float]) -> int | None:
    total = sum(batches)
    return int(total) if total < float("inf") else None
