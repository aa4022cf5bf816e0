"""Cross-entropy in chunks of positions, so that the logits of a whole batch never exist at once.

Axes: N positions, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from etude.errors import ConfigurationError
from etude.models.losses.soft_cap import soft_cap_in_place
from etude.types import IGNORED

CHUNK = 512
"""Largest number of positions whose logits are in memory at a time, if nothing else is asked for."""

LEAST_CHUNK = 64
"""Number of positions below which products with the output matrix read more than they compute."""

CHUNK_LOGITS = 2**25
"""Logits in memory at a time, if nothing else is asked for: 128 MiB in single precision. Only vocabularies above 65,536 have
smaller chunks for it."""


def chunk_length(vocabulary: int, asked: int | None = None, largest: int = CHUNK) -> int:
    """Return the number of positions whose logits are in memory at a time.

    Args:
        vocabulary: V.
        asked: The number, if somebody chose it.
        largest: What it is at most, otherwise.
    """
    return asked or min(largest, max(LEAST_CHUNK, CHUNK_LOGITS // vocabulary))


def check_chunk(asked: int | None) -> None:
    """Refuse a chunk of no positions.

    Raises:
        ConfigurationError: If it is below 1.
    """
    if asked is not None and asked < 1:
        raise ConfigurationError(f"task.chunk_tokens = {asked} is out of range; write 1 or more, such as 512, or null")


def label_smoothed_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    smoothing: float = 0.0,
    bias: Float[Tensor, " V"] | None = None,
    cap: float | None = None,
    chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Compute the cross-entropy of logits hidden weightᵀ + bias with smoothed labels (Szegedy et al. 2016, section 7).

    A label y stands for the distribution (1 - ε) [v = y] + ε / V, as in torch's `label_smoothing`. With logits z, the
    loss of a position is logsumexp(z) - (1 - ε) z_y - ε/V Σ_v z_v. Gradients, if required, are computed in this forward
    pass while a chunk's logits exist; there is no second derivative. Under autocast, products are in the lower precision
    and the softmax is in float32.

    Args:
        hidden: Hidden states before the output projection.
        weight: The output projection.
        labels: Ids of the correct tokens; positions labelled `IGNORED` do not count.
        smoothing: ε, from 0 to 1.
        bias: Added to the logits.
        cap: Bound of the logits, by soft-capping after the bias; None: none.
        chunk: Number of positions whose logits are in memory at a time; None: see `chunk_length`.

    Returns:
        The loss in nats, summed over the positions that count, and their number: the denominator. If no position counts,
        the sum is 0 and its gradients are zeros.

    Example:
        total, count = label_smoothed_cross_entropy(torch.zeros(3, 2), torch.ones(5, 2), torch.tensor([4, 0, IGNORED]))
        # total = 2 log 5, count = 2
    """
    counted = (labels != IGNORED).nonzero().squeeze(1)
    if len(counted) < len(labels):
        hidden, labels = hidden.index_select(0, counted), labels.index_select(0, counted)
    length = chunk_length(len(weight), chunk, CHUNK)
    total = _chunked_cross_entropy(hidden, weight, bias, labels, smoothing, cap, length, torch.is_grad_enabled())
    return total, torch.tensor(len(counted), device=labels.device)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum over positions, none of them `IGNORED`, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        labels: Int[Tensor, " N"],
        smoothing: float,
        cap: float | None,
        length: int,
        differentiable: bool,
    ) -> Float[Tensor, ""]:
        gradients = Gradients(hidden, weight, bias, [differentiable and needed for needed in ctx.needs_input_grad])
        dtype = product_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        for start in range(0, len(labels), length):
            chunk, chunk_labels = states[start : start + length], labels[start : start + length, None]
            logits = (chunk @ matrix.T).to(total.dtype)
            if bias is not None:
                logits += bias
            slopes = None if cap is None else soft_cap_in_place(logits, cap)
            total -= (1 - smoothing) * logits.gather(1, chunk_labels).sum()
            if slopes is not None:
                total -= smoothing / len(weight) * logits.sum()
            total += _softmax_in_place(logits).sum()
            logits.scatter_add_(1, chunk_labels, logits.new_full(chunk_labels.shape, smoothing - 1))
            if slopes is not None:
                logits.sub_(smoothing / len(weight)).mul_(slopes)
            gradients.add(start, chunk, matrix, logits.to(dtype))
        if smoothing and cap is None:  # the sum of capped logits is not linear in the states
            total -= gradients.add_uniform(hidden, weight, bias, smoothing / len(weight))
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return *scaled_by(gradient, ctx.saved_tensors), None, None, None, None, None


_chunked_cross_entropy: Callable[..., Tensor] = _ChunkedCrossEntropy.apply


class Gradients:
    """Accumulated gradients of the loss, for those of hidden, weight and bias that require one."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: list[bool]) -> None:
        self.hidden = torch.zeros_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight) if needed[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(self, start: int, states: Tensor, matrix: Tensor, logits: Float[Tensor, "n V"]) -> None:
        """Add the gradients of a chunk of n positions from `start` on, given the gradient of its logits."""
        if self.hidden is not None:
            self.hidden[start : start + len(states)] = logits @ matrix
        if self.weight is not None and self.weight.dtype == states.dtype:
            self.weight.addmm_(logits.T, states)
        elif self.weight is not None:
            self.weight += logits.T @ states
        if self.bias is not None:
            self.bias += logits.sum(0)

    def add_uniform(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, share: float) -> Float[Tensor, ""]:
        """Subtract the gradients of `share` x the sum of all logits, and return that term, without computing the logits.

        Σ_n Σ_v (h_n · W_v + b_v) = (Σ_n h_n) · (Σ_v W_v) + N Σ_v b_v.
        """
        states, matrix = hidden.sum(0), weight.sum(0)
        if self.hidden is not None:
            self.hidden -= share * matrix
        if self.weight is not None:
            self.weight -= share * states
        if self.bias is not None:
            self.bias -= share * len(hidden)
        logits = states @ matrix.to(states.dtype)
        return share * (logits if bias is None else logits + len(hidden) * bias.sum())


def scaled_by(gradient: Float[Tensor, ""], saved: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return saved gradients multiplied by that of the sum: in place, unless the graph will be walked again.

    The gradient of the output matrix may be the largest tensor of a training: no second one is made of it.
    """
    again = torch._C._autograd._get_current_graph_task_keep_graph()  # no public function tells
    return [
        None if each is None else (torch.mul if again else Tensor.mul_)(each, gradient.to(each.dtype)) for each in saved
    ]


def _softmax_in_place(logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Turn logits into probabilities and return their logsumexp, without a second pass of exponentials.

    It is recovered from the largest probability, exp(largest - logsumexp), which is never near zero.
    """
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    return largest - logits.amax(1).log()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which autocast would compute products of `x`, or that of `x` without autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
