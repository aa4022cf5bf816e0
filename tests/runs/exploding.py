"""Breaks the loss or the gradient of chosen steps, as bad data and unlucky rates do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback


class Explode(Callback):
    """Makes numbers of some steps infinite, or losses huge, in one rank.

    Args:
        gradients: Steps whose gradient gets an infinite number.
        losses: Steps whose loss is infinite, with a gradient that is not.
        spikes: Steps whose loss is a hundred times what it is.
        only: The rank in which that happens.
    """

    def __init__(
        self, gradients: Sequence[int] = (), losses: Sequence[int] = (), spikes: Sequence[int] = (), only: int = 0
    ) -> None:
        self.gradients, self.losses, self.spikes, self.only = gradients, losses, spikes, only

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        vars(pl_module).pop("loss", None)
        step = trainer.global_step + 1
        if trainer.global_rank != self.only or step not in (*self.losses, *self.spikes):
            return
        more, factor = (torch.inf, 1) if step in self.losses else (0, 100)
        loss = pl_module.loss

        def broken(batch: Any) -> tuple[Any, Any]:
            total, count = loss(batch)
            return factor * total + more, count

        vars(pl_module)["loss"] = broken

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_rank == self.only and trainer.global_step + 1 in self.gradients:
            next(pl_module.parameters()).grad.view(-1)[0] = torch.inf
