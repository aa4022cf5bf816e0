"""Pruning: a member of a sweep ends before its budget is spent when its sweep says so."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from etude.runs.documents import PRUNED
from etude.sweeps.reports import ValidationReport, read_answer, write_report

PATIENCE = 600.0
"""Seconds to wait for the sweep's answer. If none comes the run goes on."""

_log = logging.getLogger(__name__)


class StopWhenPruned(Callback):
    """Reports each validation to the sweep, and ends the training if the sweep answers that it should.

    Its state is in every checkpoint, and answers stay in the run's folder: a run that is killed and continued ends at the same
    step.

    Args:
        run: The run's folder.
        metric: Name of the score that is reported.
    """

    def __init__(self, run: Path, metric: str) -> None:
        self._run = run
        self._metric = metric
        self._index = 0
        self.reason: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the number of validations so far, and why the run ended."""
        return {"index": self._index, "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state."""
        self._index, self.reason = int(state_dict["index"]), state_dict["reason"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End at once if the run had ended before."""
        if self.reason is not None:
            trainer.should_stop = True

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the score; rank 0 asks, and all ranks do what it was told."""
        if trainer.state.fn != "fit" or self.reason is not None:
            return
        self._index += 1
        value = trainer.callback_metrics.get(self._metric)
        ends = value is not None and trainer.is_global_zero and self._asked(trainer.global_step, float(value))
        if trainer.strategy.broadcast(ends):
            self.reason = f"{PRUNED} after {self._index} validations: {self._metric} was {float(value or 0.0):.6g}"
            trainer.should_stop = True

    def _asked(self, step: int, value: float) -> bool:
        if value != value:  # nothing is better than something else by a score that is no number
            return False
        write_report(self._run, ValidationReport(index=self._index, step=step, value=value))
        deadline = time.monotonic() + PATIENCE
        while (answer := read_answer(self._run, self._index)) is None:
            if time.monotonic() > deadline:
                _log.warning("the sweep does not answer; the run goes on (%s)", self._run)
                return False
            time.sleep(0.02)
        return answer
