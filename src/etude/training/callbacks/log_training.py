"""The moment at which a task logs its training: before anything of the same step is saved."""

from __future__ import annotations

from typing import Any, Protocol, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class LogsTraining(Protocol):
    """A task that logs its training when it is told that a micro-batch has ended."""

    def log_training(self, index: int) -> None:
        """Log, if the micro-batch with this index in its epoch was the last one before a line of the record."""
        ...


class LogTraining(Callback):
    """Has the task log at the end of a step, ahead of the callbacks that follow this one.

    A checkpoint holds the position of the record. If a step were saved before it is logged, a run continued from there
    would never write its line; and Lightning calls a module's own `on_train_batch_end` after those of all callbacks.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass it on."""
        cast(LogsTraining, pl_module).log_training(batch_idx)
