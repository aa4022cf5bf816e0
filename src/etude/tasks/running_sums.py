"""Sums over batches and ranks, which become means once."""

from __future__ import annotations

from collections.abc import Mapping
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

    A loss may be made of terms, whose sums are kept by their names: every batch has the same ones.

    Args:
        loss_sum: Initial sum of losses.
        count: Initial count.
        tokens: Tokens of the run when the sums began.
        seconds: Seconds of the run when they began.
        step: Steps of the run when they began.
        terms: Initial sums of the terms.
    """

    def __init__(
        self,
        loss_sum: float = 0.0,
        count: float = 0,
        tokens: int = 0,
        seconds: float = 0.0,
        step: int = 0,
        terms: Mapping[str, float] | None = None,
    ) -> None:
        self.tokens = tokens
        self.seconds = seconds
        self.step = step
        self._loss_sum: Tensor | float = loss_sum
        self._count: Tensor | float = count
        self._terms: dict[str, Tensor | float] = dict(terms or {})
        self._settled: tuple[Tensor | float, Tensor | float, dict[str, Tensor | float]] = loss_sum, count, self._terms

    def add(
        self, loss_sum: Float[Tensor, ""], count: Real[Tensor, ""], terms: Mapping[str, Float[Tensor, ""]] | None = None
    ) -> None:
        """Add a micro-batch."""
        self._loss_sum = self._loss_sum + loss_sum.detach().double()
        self._count = self._count + count.double()
        self._terms = {
            name: self._terms.get(name, 0.0) + value.detach().double() for name, value in (terms or {}).items()
        }

    def settle(self) -> None:
        """Keep everything added so far."""
        self._settled = self._loss_sum, self._count, self._terms

    def drop(self) -> None:
        """Discard everything added since `settle`: the micro-batches of a step that is left out."""
        self._loss_sum, self._count, self._terms = self._settled

    def total(self, module: lightning.LightningModule) -> tuple[float, float]:
        """Return sum and count over all ranks; the count as an int if it is whole."""
        loss_sum, count, *_ = self._over_ranks(module).tolist()
        return loss_sum, int(count) if count.is_integer() else count

    def terms(self, module: lightning.LightningModule) -> dict[str, float]:
        """Return the sum of each term over all ranks."""
        return dict(zip(self._terms, self._over_ranks(module).tolist()[2:], strict=True))

    def mean(self, module: lightning.LightningModule) -> Float[Tensor, ""]:
        """Return the sum divided by the count, over all ranks, without waiting for the device."""
        loss_sum, count, *_ = self._over_ranks(module)
        return loss_sum / count

    def term_means(self, module: lightning.LightningModule) -> dict[str, Float[Tensor, ""]]:
        """Return the sum of each term divided by the count, over all ranks, without waiting for the device."""
        _, count, *terms = self._over_ranks(module)
        return {name: value / count for name, value in zip(self._terms, terms, strict=True)}

    def _over_ranks(self, module: lightning.LightningModule) -> Float[Tensor, " n"]:
        sums = torch.stack(
            [
                torch.as_tensor(value, dtype=torch.float64, device=module.device)
                for value in (self._loss_sum, self._count, *self._terms.values())
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
