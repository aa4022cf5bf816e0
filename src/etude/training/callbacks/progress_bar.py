"""Progress bar on stderr, in steps of the whole budget."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks.progress.progress_bar import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

from etude.tasks.base import Task


class StepProgressBar(ProgressBar):
    """A bar in a terminal or notebook; elsewhere a plain line each time that the task logs. Scores in either case.

    Args:
        stream: Stream that is written to; by default stderr, since stdout is for data.
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
        """Start the bar at the position of the run."""
        self._started = (trainer.global_step, time.monotonic())
        self._training = self._bar("training", _budget(trainer), trainer.global_step, "step")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the values logged after the last batch: a module's hooks follow those of callbacks."""
        self._show_logged(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        if self._training is not None:
            self._training.update(trainer.global_step - self._training.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the values logged last, and close the bar."""
        self._show_logged(trainer, pl_module)
        if self._training is not None:
            self._training.close()

    def _show_logged(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if not isinstance(task, Task) or task.last_logged is self._shown or not task.last_logged:
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
        budget, (first, start) = _budget(trainer), self._started
        if budget is None or trainer.global_step == first:
            return []
        seconds = (time.monotonic() - start) / (trainer.global_step - first) * (budget - trainer.global_step)
        return [f"remaining {Tqdm.format_interval(seconds)}"]

    # Validation and test

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a second bar."""
        self._show_logged(trainer, pl_module)
        self._evaluation = self._bar("validation", _count(trainer.num_val_batches), 0, "batch")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a bar."""
        self._evaluation = self._bar("test", _count(trainer.num_test_batches), 0, "batch")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        if self._evaluation is not None:
            self._evaluation.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the bar with the scores."""
        self._end_evaluation(trainer, "val/")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the bar with the scores."""
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
        """Return a bar; None if the stream cannot draw one."""
        if not self._enabled or not (self._stream.isatty() or _is_notebook(self._stream)):
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
    """Return loss and speed as text, if they are among the logged values."""
    parts = []
    if "train/loss" in logged:
        parts.append(f"loss {float(logged['train/loss']):.4f}")
    if "speed/tokens_per_second" in logged:
        parts.append(f"{float(logged['speed/tokens_per_second']):,.0f} tokens/s")
    return parts


def _is_notebook(stream: TextIO) -> bool:
    """Return whether a stream is the output of a notebook's cell, which is not a terminal but can rewrite a line."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def _budget(trainer: pl.Trainer) -> int | None:
    """Return the steps of the whole run; None if its budget is in seconds."""
    return trainer.max_steps if trainer.max_steps > 0 else None


def _count(batches: list[int | float]) -> int | None:
    total = sum(batches)
    return int(total) if total < float("inf") else None
