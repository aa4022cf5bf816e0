"""Consistency losses of two passes over the same examples, which differ by dropout.

Axes: N positions, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from etude.errors import ConfigurationError
from etude.models.losses.cross_entropy import Gradients, chunk_length, product_dtype, scaled_by
from etude.models.losses.soft_cap import soft_cap_in_place
from etude.types import IGNORED

CHUNK = 256
"""Largest number of positions whose logits, of both passes, are in memory at a time, if nothing else is asked for."""


class Consistency(Protocol):
    """A loss of two passes."""

    def __call__(
        self,
        first: Float[Tensor, "N D"],
        second: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        labels: Int[Tensor, " N"],
        smoothing: float,
        cap: float | None = None,
        chunk: int | None = None,
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the loss of hidden states, summed over the positions that count, and their number."""
        ...


@dataclass(frozen=True)
class RDrop:
    """R-Drop (Liang et al. 2021, equation 4): cross-entropy, plus the divergence of the predictions of two passes.

    For predictions P and Q of a position, the loss is half of the paper's, so that it is a mean over the two passes, as
    large as the loss of a single pass: ½ [CE(P) + CE(Q) + α ½ (KL(P‖Q) + KL(Q‖P))]. CE may be label-smoothed.

    Attributes:
        alpha: α, at least 0. The paper uses 5 for translation.

    Raises:
        ConfigurationError: If alpha is negative.
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ConfigurationError(f"task.consistency.alpha={self.alpha} is negative; write 5.0, or 0 for no effect")

    def __call__(
        self,
        first: Float[Tensor, "N D"],
        second: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        labels: Int[Tensor, " N"],
        smoothing: float = 0.0,
        cap: float | None = None,
        chunk: int | None = None,
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Compute the loss, and any required gradients, in chunks of positions; there is no second derivative.

        Args:
            first: Hidden states of one pass, before the output projection.
            second: Hidden states of the other pass.
            weight: The output projection.
            labels: Ids of the correct tokens; positions labelled `IGNORED` do not count.
            smoothing: ε of label smoothing, from 0 to 1.
            cap: Bound of the logits, by soft-capping; None: none.
            chunk: Number of positions whose logits are in memory at a time; None: see `chunk_length`.

        Returns:
            The loss summed over the positions that count, in nats, and their number.
        """
        counted = (labels != IGNORED).nonzero().squeeze(1)
        if len(counted) < len(labels):
            first, second, labels = (tensor.index_select(0, counted) for tensor in (first, second, labels))
        length = chunk_length(len(weight), chunk, CHUNK)
        total = _chunked_r_drop(
            first, second, weight, labels, smoothing, cap, self.alpha, length, torch.is_grad_enabled()
        )
        return total, torch.tensor(len(counted), device=labels.device)


class _ChunkedRDrop(torch.autograd.Function):
    """The sum over positions, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Float[Tensor, "N D"],
        second: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        labels: Int[Tensor, " N"],
        smoothing: float,
        cap: float | None,
        alpha: float,
        length: int,
        differentiable: bool,
    ) -> Float[Tensor, ""]:
        needed = [differentiable and needed for needed in ctx.needs_input_grad]
        gradients = [
            Gradients(first, weight, None, [needed[0], needed[2], False]),
            Gradients(second, weight, None, [needed[1], False, False]),
        ]
        gradients[1].weight = gradients[0].weight  # both passes add to the same gradient
        dtype = product_dtype(first)
        sides, matrix = [side.to(dtype) for side in (first, second)], weight.to(dtype)
        total = first.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        for start in range(0, len(labels), length):
            chunks = [side[start : start + length] for side in sides]
            logits = [(chunk @ matrix.T).to(total.dtype) for chunk in chunks]
            capping = [] if cap is None else [soft_cap_in_place(side, cap) for side in logits]
            logs = [torch.log_softmax(side, 1) for side in logits]
            loss, slopes = _positions(logs[0], logs[1], labels[start : start + length, None], smoothing, alpha)
            total += loss
            for slope, derivative in zip(slopes, capping, strict=False):
                slope *= derivative
            for accumulated, chunk, slope in zip(gradients, chunks, slopes, strict=True):
                accumulated.add(start, chunk, matrix, slope.to(dtype))
        ctx.save_for_backward(gradients[0].hidden, gradients[1].hidden, gradients[0].weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return *scaled_by(gradient, ctx.saved_tensors), None, None, None, None, None, None


_chunked_r_drop: Callable[..., Tensor] = _ChunkedRDrop.apply


def _positions(
    p: Float[Tensor, "n V"], q: Float[Tensor, "n V"], labels: Int[Tensor, "n 1"], smoothing: float, alpha: float
) -> tuple[Float[Tensor, ""], tuple[Float[Tensor, "n V"], Float[Tensor, "n V"]]]:
    """Return the loss of n positions, given log-probabilities, and its gradients with respect to both passes' logits.

    The gradient of J = ½ Σ (P - Q)(log P - log Q) in the logits of P is ½ [P (log P - log Q - KL(P‖Q)) + P - Q].
    """
    difference = p - q
    probabilities = p.exp(), q.exp()
    divergences = (
        (probabilities[0] * difference).sum(1, keepdim=True),
        -(probabilities[1] * difference).sum(1, keepdim=True),
    )
    loss = alpha / 4 * (divergences[0].sum() + divergences[1].sum())
    slopes = []
    for sign, logs, own, other, divergence in zip(
        (1, -1), (p, q), probabilities, probabilities[::-1], divergences, strict=True
    ):
        loss -= (1 - smoothing) / 2 * logs.gather(1, labels).sum() + smoothing / 2 * logs.mean(1).sum()
        slope = alpha / 4 * (own * (sign * difference - divergence) + own - other)
        slope += (own - smoothing / own.shape[1]) / 2
        slopes.append(slope.scatter_add_(1, labels, slope.new_full(labels.shape, (smoothing - 1) / 2)))
    return loss, (slopes[0], slopes[1])
