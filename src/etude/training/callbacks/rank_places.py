"""Places that each rank passes in a training, for the watch over ranks that hang."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from etude.training.rank_watch import RankWatch


class RankPlaces(Callback):
    """Notes each place that a rank comes to, while it trains; it stands before callbacks that could hang.

    Args:
        watch: The watch that is told.
    """

    def __init__(self, watch: RankWatch) -> None:
        self._watch = watch

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the watch."""
        self._watch.start()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note that the training starts."""
        self._watch.note(f"before step {trainer.global_step + 1}")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that the batch was read."""
        self._watch.note(f"in the forward pass of step {trainer.global_step + 1}")

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Note that the loss was computed."""
        self._watch.note(f"in the backward pass of step {trainer.global_step + 1}")

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        """Note that the gradient was computed."""
        self._watch.note(f"in the update of step {trainer.global_step + 1}")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the end of the micro-batch, which the reading of the next one follows."""
        self._watch.note(f"after a batch, with {trainer.global_step} steps done")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note that a validation starts."""
        self._watch.note(f"at the start of the validation after step {trainer.global_step}")

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note that a batch was read."""
        self._watch.note(f"at batch {batch_idx + 1} of the validation after step {trainer.global_step}")

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note that a batch was judged."""
        self._watch.note(f"after batch {batch_idx + 1} of the validation after step {trainer.global_step}")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note that the scores were computed."""
        self._watch.note(f"at the end of the validation after step {trainer.global_step}")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that a checkpoint is saved."""
        self._watch.note(f"at the checkpoint of step {trainer.global_step}")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note that the training ends."""
        self._watch.note(f"at the end of the training, after step {trainer.global_step}")

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Stop the watch: this rank ends, and says why."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Stop the watch: what follows the training may take longer."""
        self._watch.stop()
