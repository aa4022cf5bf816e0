"""Logging of training at the end of a step, before anything of that step is saved."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from etude.tasks.base import Task


class LogTraining(Callback):
    """Makes the task log at the end of a step, ahead of the callbacks after this one.

    A checkpoint holds the position of the record. If a step were saved before it is logged, a run continued from there
    would never write its line; and Lightning calls a module's own `on_train_batch_end` after those of all callbacks.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the task log."""
        if isinstance(pl_module, Task):
            pl_module.log_training(batch_idx)
