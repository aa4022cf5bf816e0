"""The guard against losses and gradients that are not finite: it finds the step, and lets nothing broken be kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor

NEVER = 2**62


class Broken(NamedTuple):
    """A step whose loss or gradient is not finite.

    Attributes:
        step: Its number, from 1.
        loss_sum: The sum of its losses, over all ranks.
        gradient_norm: The norm of its gradient; nan where it is not known.
    """

    step: int
    loss_sum: float
    gradient_norm: float


class Guard:
    """Remembers losses and gradient norms on the device until it is asked, so that a step waits for nothing."""

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor]] = []
        self._norms: list[tuple[int, Tensor]] = []

    def saw_loss(self, step: int, loss_sum: Float[Tensor, ""]) -> None:
        """Remember the loss of a micro-batch."""
        self._losses.append((step, loss_sum.detach()))

    def saw_norm(self, step: int, gradient_norm: Float[Tensor, ""]) -> None:
        """Remember the norm of a step's gradient."""
        self._norms.append((step, gradient_norm.detach()))

    def broken(self, device: torch.device) -> Broken | None:
        """Return the first broken step since this was asked before, on whichever rank; all ranks ask together."""
        losses, norms = _read(self._losses), _read(self._norms)
        self._losses, self._norms = [], []
        first = min((step for step, value in [*losses, *norms] if not abs(value) < float("inf")), default=NEVER)
        first = int(_over_ranks(first, torch.int64, device, torch.distributed.ReduceOp.MIN))
        if first == NEVER:
            return None
        loss_sum = sum(value for step, value in losses if step == first)
        total = _over_ranks(loss_sum, torch.float64, device, torch.distributed.ReduceOp.SUM)
        return Broken(first, float(total), next((value for step, value in norms if step == first), float("nan")))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number in the tensors is finite."""
    return bool(torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all())


def _read(seen: list[tuple[int, Tensor]]) -> list[tuple[int, float]]:
    if not seen:
        return []
    values = torch.stack([value.double() for _, value in seen]).tolist()
    return [(step, value) for (step, _), value in zip(seen, values, strict=True)]


def _over_ranks(
    value: float, dtype: torch.dtype, device: torch.device, reduction: torch.distributed.ReduceOp.RedOpType
) -> Tensor:
    tensor = torch.tensor(value, dtype=dtype, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor, reduction)
    return tensor
