"""Norms of gradients, weights and updates, layer by layer: where a training that goes wrong goes wrong first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

GRADIENTS, WEIGHTS, UPDATES, RATES = (
    "train/gradient_norm",
    "train/weight_norm",
    "train/update_norm",
    "train/learning_rate",
)
"""Names of what is logged; `/LAYER` follows."""


def layer_of(name: str) -> str:
    """Return the layer of a parameter: `encoder.3` of `model.encoder.3.attention.query.weight`, else its first part."""
    parts = name.removeprefix("model.").split(".")
    numbered = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: numbered + 1])


class LayerNorms(Callback):
    """Logs, every so many steps, the norms of each layer's gradient (before clipping), weights and update.

    An update that is some thousandth of its weights is healthy; one that is a tenth is too large, and one of a layer
    that hardly moves shows as such. Where layers have learning rates of their own, these are logged too. At a step that
    is logged, a copy of the weights is held until the step is over.

    Args:
        every: Steps between two logs.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._layers: dict[str, list[Tensor]] = {}
        self._sharded = False
        self._before: list[Tensor] = []
        self._values: dict[str, float] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers that train."""
        self._layers = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                self._layers.setdefault(layer_of(name), []).append(parameter)
        self._sharded = any(isinstance(weight, DTensor) for weights in self._layers.values() for weight in weights)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the norms of the gradients, and remember the weights."""
        self._step = trainer.global_step + 1
        if self._step % self.every:
            return
        gradients = [
            [weight.grad for weight in weights if weight.grad is not None] for weights in self._layers.values()
        ]
        self._values = self._norms(GRADIENTS, gradients)
        self._before = [_own(weight).detach().clone() for weights in self._layers.values() for weight in weights]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step, if it is over and its norms were taken."""
        if not self._before or trainer.global_step != self._step:
            return
        before = iter(self._before)
        updates = [[_own(weight).detach() - next(before) for weight in weights] for weights in self._layers.values()]
        self._values |= self._norms(UPDATES, updates) | self._norms(WEIGHTS, self._layers.values())
        self._values |= self._rates(trainer.optimizers[0])
        self._before = []
        for logger in trainer.loggers:
            logger.log_metrics(self._values, self._step)

    def _rates(self, optimizer: Optimizer) -> dict[str, float]:
        """Return the largest learning rate in each layer; nothing, if all have the same."""
        rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        if len(set(rate_of.values())) < 2:
            return {}
        return {
            f"{RATES}/{layer}": max(rate_of.get(id(weight), 0.0) for weight in weights)
            for layer, weights in self._layers.items()
        }

    @torch.no_grad()
    def _norms(self, name: str, layers: Iterable[Iterable[Tensor]]) -> dict[str, float]:
        """Return the norm of each layer's tensors together, over all ranks if they are sharded; the device is read once."""
        squares = [
            sum((_own(tensor).float().square().sum() for tensor in tensors), torch.zeros(())) for tensors in layers
        ]
        device = next((one.device for one in squares if one.device.type != "cpu"), torch.device("cpu"))
        total = torch.stack([one.to(device) for one in squares])
        if self._sharded:
            torch.distributed.all_reduce(total)
        return {f"{name}/{layer}": value for layer, value in zip(self._layers, total.sqrt().tolist(), strict=True)}


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor, or this rank's slice of one that is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
