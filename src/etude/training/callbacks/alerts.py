"""Alerts while a run trains: of an error that ends it, and of steps that are left out."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from etude.tasks.base import Task
from etude.training.loggers.alerting import NOT_FINITE, alert, alert_of_error

SKIPPED = "train/skipped_steps"
"""What `non_finite=skip` records."""


class Alerts(Callback):
    """Sends alerts through the loggers that can. It reads what the task logs: nothing waits for the device."""

    def __init__(self) -> None:
        self._skipped = 0.0
        self._seen: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the values that were logged last, once."""
        if not isinstance(pl_module, Task) or pl_module.last_logged is self._seen:
            return
        self._seen = pl_module.last_logged
        skipped, before = self._seen.get(SKIPPED, 0.0), self._skipped
        self._skipped = skipped
        if skipped > before:
            text = f"{skipped:.0f} steps are left out so far, at step {trainer.global_step}"
            alert(trainer.loggers, NOT_FINITE, text, "WARN")

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps were left out at the last line of the record."""
        return {"skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state."""
        self._skipped = state_dict["skipped"]

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Send an alert of the error, before Lightning ends the loggers."""
        alert_of_error(trainer.loggers, exception)
