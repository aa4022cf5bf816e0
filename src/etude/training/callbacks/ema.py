"""Exponential moving average of the weights, which is validated, tested and saved."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.training.fully_sharded import FullyShardedStrategy


class EMA(Callback):
    """Keeps an exponential moving average of the trained weights: average ← average + (1 - d) · (weights - average).

    The t-th update (from 0) uses d = min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.
    Validation, test and prediction use the averages, and the `state_dict` of a checkpoint holds them: whoever reads it
    gets the weights that were validated. The training weights are in the callback's own state, and are put back when a
    training is continued. Frozen weights and buffers are not averaged.

    Lightning's `EMAWeightAveraging` has no such warm-up and averages frozen weights too, in a copy of the whole module.

    Args:
        decay: d, at least 0 and below 1: about the last 1 / (1 - decay) steps count.

    Raises:
        ConfigurationError: If decay is out of range; when training starts, if its strategy is another than etude's own.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigurationError(f"callbacks.ema.decay={decay} is out of range; write a number from 0 to below 1")
        self.decay = decay
        self._updates = 0
        self._step = 0  # optimizer step of the last update
        self._weights: dict[str, nn.Parameter] = {}  # parameters of the model that is trained
        self._averages: dict[str, Tensor] = {}
        self._training_weights: dict[str, Tensor] = {}  # while the averages replace them

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Discard earlier averages, if a training starts."""
        if stage == "fit":
            self._updates, self._averages, self._training_weights = 0, {}, {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the averages in full precision; the model has them too, in its own, until a fit starts."""
        self._averages = checkpoint["state_dict"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Initialize the averages with the weights; in a continued run, put the training weights back.

        Not earlier: a strategy that shards weights loads them after `on_fit_start`.
        """
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | FullyShardedStrategy):
            raise ConfigurationError(
                f"callbacks.ema cannot average weights sharded by {type(trainer.strategy).__name__}; "
                "write trainer.strategy=ddp, or ~callbacks.ema"
            )
        self._weights = {name: weight for name, weight in pl_module.named_parameters() if weight.requires_grad}
        # At least float32: (1 - decay) of a weight is below the resolution of half precision.
        self._averages = {
            name: _wide(self._averages.get(name, weight)).to(weight.device, copy=True)
            for name, weight in self._weights.items()
        }
        self._show_training_weights()
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the averages after an optimizer step, not after a micro-batch that only accumulates gradients."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        weights = [_wide(weight) for weight in self._weights.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the training weights with the averages."""
        self._show_averages()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the training weights back."""
        self._show_training_weights()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def state_dict(self) -> dict[str, Any]:
        """Return the training weights, and the number of updates of the averages."""
        if not self._weights:
            return {}
        return {"updates": self._updates, "weights": self._training_weights or _data(self._weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._updates, self._training_weights = state_dict["updates"], state_dict["weights"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Replace the weights in the checkpoint with the averages, under each name of a tied one."""
        average_of = {id(weight): self._averages[name] for name, weight in self._weights.items()}
        for name, weight in pl_module.named_parameters(remove_duplicate=False):
            if id(weight) in average_of:
                checkpoint["state_dict"][name] = average_of[id(weight)]

    @torch.no_grad()
    def _show_averages(self) -> None:
        self._training_weights = {name: weight.detach().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.copy_(self._averages[name])

    @torch.no_grad()
    def _show_training_weights(self) -> None:
        for name, weight in self._weights.items():
            if name in self._training_weights:
                weight.copy_(self._training_weights[name])
        self._training_weights = {}


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _data(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in weights.items()}
