"""Early stopping: a training without progress ends before its budget is spent."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class StopWithoutProgress(EarlyStopping):
    """Lightning's early stopping after validations, for runs that can be continued.

    Its state is in every checkpoint. If a run was killed between its last step and its end, its checkpoint has stopped
    already, and the continued run takes no more steps.

    Args:
        metric: Name of the score, such as `val/bleu`.
        mode: `min` or `max`.
        patience: Number of validations without a better score after which training ends.
        min_delta: Smallest difference that counts as better.
    """

    def __init__(self, metric: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        super().__init__(metric, min_delta, patience, mode=mode, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if the run had ended before."""
        if self.reason is not None:
            trainer.should_stop = True

    @property
    def reason(self) -> str | None:
        """Reason why training ended; None while it has not."""
        if self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
            return None
        if self.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            return f"{self.monitor} is not finite"
        margin = f" by more than {abs(self.min_delta):g}" if self.min_delta else ""
        best = float(self.best_score)
        return f"{self.monitor} was no better than {best:.6g}{margin} in {self.wait_count} validations"
