"""Sums over batches and ranks, which become means once."""

from __future__ import annotations

from typing import Any

import lightning
import torch
import torch.distributed
from jaxtyping import Float, Real
from torch import Tensor

Row = dict[str, Any]
"""One evaluated example: its `id`, the model's output, and what the metrics need."""


class Sums:
    """Running sums of losses and counts, kept on the device until they are read.

    Args:
        loss_sum: Initial sum of losses.
        count: Initial count.
        tokens: Tokens of the run when the sums began.
        seconds: Seconds of the run when they began.
        step: Steps of the run when they began.
    """

    def __init__(
        self, loss_sum: float = 0.0, count: float = 0, tokens: int = 0, seconds: float = 0.0, step: int = 0
    ) -> None:
        self.tokens = tokens
        self.seconds = seconds
        self.step = step
        self._loss_sum: Tensor | float = loss_sum
        self._count: Tensor | float = count
        self._settled: tuple[Tensor | float, Tensor | float] = loss_sum, count

    def add(self, loss_sum: Float[Tensor, ""], count: Real[Tensor, ""]) -> None:
        """Add a micro-batch."""
        self._loss_sum = self._loss_sum + loss_sum.detach().double()
        self._count = self._count + count.double()

    def settle(self) -> None:
        """Keep everything added so far."""
        self._settled = self._loss_sum, self._count

    def drop(self) -> None:
        """Discard everything added since `settle`: the micro-batches of a step that is left out."""
        self._loss_sum, self._count = self._settled

    def total(self, module: lightning.LightningModule) -> tuple[float, float]:
        """Return sum and count over all ranks; the count as an int if it is whole."""
        loss_sum, count = self._over_ranks(module).tolist()
        return loss_sum, int(count) if count.is_integer() else count

    def mean(self, module: lightning.LightningModule) -> Float[Tensor, ""]:
        """Return the sum divided by the count, over all ranks, without waiting for the device."""
        loss_sum, count = self._over_ranks(module)
        return loss_sum / count

    def _over_ranks(self, module: lightning.LightningModule) -> Float[Tensor, " 2"]:
        sums = torch.stack(
            [
                torch.as_tensor(value, dtype=torch.float64, device=module.device)
                for value in (self._loss_sum, self._count)
            ]
        )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        return sums


def gathered(rows: list[Row]) -> list[Row]:
    """Return the rows of all ranks, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    shards: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(shards, rows)
    return [row for shard in shards for row in shard]
