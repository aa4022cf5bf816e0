"""Consistency losses of two passes over the same examples, which differ by dropout.

Axes: N positions or examples, n of them, D model width, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.autograd.function import once_differentiable

from etude.errors import ConfigurationError
from etude.models.losses.cross_entropy import Gradients, chunk_length, product_dtype, scaled_by
from etude.models.losses.labelled_states import LabelledStates
from etude.models.losses.soft_cap import soft_cap_in_place
from etude.types import IGNORED

CHUNK = 256
"""Largest number of positions whose logits, of both passes, are in memory at a time, if nothing else is asked for."""


class Consistency(Protocol):
    """A loss of two passes."""

    def __call__(self, first: LabelledStates, second: LabelledStates) -> tuple[Float[Tensor, ""], Real[Tensor, ""]]:
        """Return the loss summed over the positions that count, and their number, or their weight."""
        ...


@dataclass(frozen=True)
class RDrop:
    """R-Drop (Liang et al. 2021, equation 4): cross-entropy, plus the divergence of the predictions of two passes.

    For predictions P and Q of a position, the loss is half of the paper's, so that it is a mean over the two passes, as
    large as the loss of a single pass: ½ [CE(P) + CE(Q) + α ½ (KL(P‖Q) + KL(Q‖P))]. CE may be label-smoothed, and
    positions weighted.

    Attributes:
        alpha: α, at least 0. The paper uses 5 for translation, and 0.1 to 1 for classification.

    Raises:
        ConfigurationError: If alpha is negative.
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ConfigurationError(f"task.consistency.alpha={self.alpha} is negative; write 5.0, or 0 for no effect")

    def __call__(self, first: LabelledStates, second: LabelledStates) -> tuple[Float[Tensor, ""], Real[Tensor, ""]]:
        """Compute the loss, and any required gradients, in chunks of positions; there is no second derivative.

        Args:
            first: States of one pass.
            second: States of the other pass at the same positions; all else is read from the first.

        Returns:
            The loss in nats, summed over the positions that count, and its denominator: their number, or their weight.
        """
        one, other, labels, weights = first.hidden, second.hidden, first.labels, first.weights
        counted = (labels != IGNORED).nonzero().squeeze(1)
        if len(counted) < len(labels):
            one, other, labels = (tensor.index_select(0, counted) for tensor in (one, other, labels))
            weights = None if weights is None else weights.index_select(0, counted)
        length = chunk_length(len(first.weight), first.chunk, CHUNK)
        fixed = _Fixed(labels, weights, first.smoothing, first.cap, self.alpha, length)
        total = _chunked_r_drop(one, other, first.weight, first.bias, fixed, torch.is_grad_enabled())
        return total, torch.tensor(len(counted), device=labels.device) if weights is None else weights.sum()


class _Fixed(NamedTuple):
    """What has no gradient: labels, weights, ε of label smoothing, the bound of the logits, α, positions at a time."""

    labels: Int[Tensor, " N"]
    weights: Float[Tensor, " N"] | None
    smoothing: float
    cap: float | None
    alpha: float
    length: int


class _ChunkedRDrop(torch.autograd.Function):
    """The sum over positions, none of them `IGNORED`, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Float[Tensor, "N D"],
        second: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        fixed: _Fixed,
        differentiable: bool,
    ) -> Float[Tensor, ""]:
        needed = [differentiable and needed for needed in ctx.needs_input_grad]
        gradients = [
            Gradients(first, weight, bias, [needed[0], needed[2], needed[3]]),
            Gradients(second, weight, None, [needed[1], False, False]),
        ]
        # both passes add to the same gradients
        gradients[1].weight, gradients[1].bias = gradients[0].weight, gradients[0].bias
        dtype = product_dtype(first)
        sides, matrix = [side.to(dtype) for side in (first, second)], weight.to(dtype)
        total = first.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        for start in range(0, len(first), fixed.length):
            part = slice(start, start + fixed.length)
            chunks = [side[part] for side in sides]
            logits = [(chunk @ matrix.T).to(total.dtype) for chunk in chunks]
            if bias is not None:
                logits = [side + bias for side in logits]
            capping = [] if fixed.cap is None else [soft_cap_in_place(side, fixed.cap) for side in logits]
            logs = [torch.log_softmax(side, 1) for side in logits]
            losses, slopes = _positions(logs[0], logs[1], fixed.labels[part, None], fixed.smoothing, fixed.alpha)
            if fixed.weights is not None:
                of_chunk = fixed.weights[part, None].to(total.dtype)
                losses, slopes = losses * of_chunk, [slope * of_chunk for slope in slopes]
            total += losses.sum()
            for slope, derivative in zip(slopes, capping, strict=False):
                slope *= derivative
            for accumulated, chunk, slope in zip(gradients, chunks, slopes, strict=True):
                accumulated.add(start, chunk, matrix, slope.to(dtype))
        ctx.save_for_backward(gradients[0].hidden, gradients[1].hidden, gradients[0].weight, gradients[0].bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return *scaled_by(gradient, ctx.saved_tensors), None, None


_chunked_r_drop: Callable[..., Tensor] = _ChunkedRDrop.apply


def _positions(
    p: Float[Tensor, "n V"], q: Float[Tensor, "n V"], labels: Int[Tensor, "n 1"], smoothing: float, alpha: float
) -> tuple[Float[Tensor, "n 1"], list[Float[Tensor, "n V"]]]:
    """Return the losses of n positions, given log-probabilities, and their gradients with respect to both passes' logits.

    The gradient of J = ½ Σ (P - Q)(log P - log Q) in the logits of P is ½ [P (log P - log Q - KL(P‖Q)) + P - Q].
    """
    difference = p - q
    probabilities = p.exp(), q.exp()
    divergences = (
        (probabilities[0] * difference).sum(1, keepdim=True),
        -(probabilities[1] * difference).sum(1, keepdim=True),
    )
    losses = alpha / 4 * (divergences[0] + divergences[1])
    slopes = []
    for sign, logs, own, other, divergence in zip(
        (1, -1), (p, q), probabilities, probabilities[::-1], divergences, strict=True
    ):
        losses -= (1 - smoothing) / 2 * logs.gather(1, labels) + smoothing / 2 * logs.mean(1, keepdim=True)
        slope = alpha / 4 * (own * (sign * difference - divergence) + own - other)
        slope += (own - smoothing / own.shape[1]) / 2
        slopes.append(slope.scatter_add_(1, labels, slope.new_full(labels.shape, (smoothing - 1) / 2)))
    return losses, slopes
