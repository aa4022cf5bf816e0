"""Curves of each validation, such as confusion and precision over recall, for the loggers that show tables."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from etude.tasks.base import Task
from etude.training.loggers.detail_tables import log_curves
from etude.training.loggers.safe_logger import SafeLogger


class ValidationCurves(Callback):
    """Sends the task's curves after each validation of a training, as `val/<name>`, from the first rank."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send them, if somebody shows them: they take time."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, SafeLogger) and logger.shows_tables]
        if loggers and trainer.state.fn == "fit" and not trainer.sanity_checking and isinstance(pl_module, Task):
            log_curves(pl_module.curves(pl_module.rows), "val", loggers, trainer.global_step)
