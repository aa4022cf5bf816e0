"""A training that makes no progress any more ends before its budget is spent."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class StopWithoutProgress(EarlyStopping):
    """Lightning's early stopping after validations, for runs that are continued.

    Its state is in every checkpoint. A run that was killed between its last step and its end has a checkpoint that has
    stopped, and does no step more.

    Args:
        metric: The score, such as `val/bleu`.
        mode: `min` or `max`.
        patience: Validations without a better score, after which training ends.
        min_delta: A score that is better by no more than this is not better.
    """

    def __init__(self, metric: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        super().__init__(metric, min_delta, patience, mode=mode, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once what had ended before."""
        if self.reason is not None:
            trainer.should_stop = True

    @property
    def reason(self) -> str | None:
        """Why training ended; None while it has not."""
        if self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
            return None
        if self.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            return f"{self.monitor} is not finite"
        margin = f" by more than {abs(self.min_delta):g}" if self.min_delta else ""
        best = float(self.best_score)
        return f"{self.monitor} was no better than {best:.6g}{margin} in {self.wait_count} validations"
