"""Divergence: a range test of the learning rate ends once the loss has left the range of what training can repair."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from etude.errors import ConfigurationError
from etude.tasks.base import Task

LOSS = "train/loss"
SKIPPED = "train/skipped_steps"


class StopWhenDiverged(Callback):
    """Ends the training when its smoothed loss exceeds a multiple of its best, or a loss is not finite.

    It reads the losses that the task logs, which are on the host already: nothing waits for the device. With `log.every=1step`
    each step counts. Its state is in every checkpoint: a run that is killed and continued ends at the same step.

    Args:
        multiple: The training ends above so many times the smallest smoothed loss so far.
        smoothing: Weight of the past in the exponential moving average, which is corrected for its start at zero (Kingma and
            Ba 2015, section 3).

    Raises:
        ConfigurationError: If the multiple is not above 1, or the smoothing not in [0, 1).
    """

    def __init__(self, multiple: float = 4.0, smoothing: float = 0.9) -> None:
        if not multiple > 1:
            raise ConfigurationError(f"callbacks.divergence.multiple={multiple} ends every training; write more than 1")
        if not 0 <= smoothing < 1:
            raise ConfigurationError(f"callbacks.divergence.smoothing={smoothing} is not in [0, 1)")
        self._multiple = multiple
        self._smoothing = smoothing
        self._average = 0.0
        self._count = 0
        self._best = math.inf
        self._skipped = 0.0
        self._seen: dict[str, float] = {}
        self.reason: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the average, the best so far, and why the run ended."""
        best = None if math.isinf(self._best) else self._best
        return {
            "average": self._average,
            "count": self._count,
            "best": best,
            "skipped": self._skipped,
            "reason": self.reason,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state."""
        self._average, self._count = float(state_dict["average"]), int(state_dict["count"])
        self._best = math.inf if state_dict["best"] is None else float(state_dict["best"])
        self._skipped, self.reason = float(state_dict["skipped"]), state_dict["reason"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if the run had ended before."""
        if self.reason is not None:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the values that were logged last, once; they are equal on all ranks, which so decide alike."""
        if not isinstance(pl_module, Task) or pl_module.last_logged is self._seen or self.reason is not None:
            return
        self._seen = pl_module.last_logged
        self.reason = self._diverged(self._seen)
        if self.reason is not None:
            trainer.should_stop = True

    def _diverged(self, logged: dict[str, float]) -> str | None:
        skipped, before = logged.get(SKIPPED, 0.0), self._skipped
        self._skipped = skipped
        loss = logged.get(LOSS, math.nan)
        if skipped > before or not math.isfinite(loss):
            return "diverged: the loss or its gradient is not finite"
        self._count += 1
        self._average = self._smoothing * self._average + (1 - self._smoothing) * loss
        smoothed = self._average / (1 - self._smoothing**self._count)
        self._best = min(self._best, smoothed)
        if smoothed <= self._multiple * self._best:
            return None
        return f"diverged: the smoothed loss is {smoothed:.6g}, more than {self._multiple:g} times its best, {self._best:.6g}"
