"""Distillation (Hinton et al. 2015): a model learns from the probabilities of another one, besides the labels.

Axes: N positions or examples, n of them, D and E model widths, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.autograd.function import once_differentiable

from etude.errors import ConfigurationError
from etude.models.losses.cross_entropy import Gradients, chunk_length, product_dtype, scaled_by
from etude.models.losses.labelled_states import LabelledStates
from etude.models.losses.soft_cap import soft_cap_in_place
from etude.types import IGNORED

CHUNK = 256
"""Largest number of positions whose logits, of both models, are in memory at a time, if nothing else is asked for."""


@dataclass(frozen=True)
class DistilledLoss:
    """A loss and what it is made of.

    Attributes:
        total: The loss, summed over what counts.
        count: Its denominator: the number of positions, or the weight of the examples.
        labels: The cross-entropy with the labels, summed.
        distillation: T² times the divergence from the teacher, summed.
    """

    total: Float[Tensor, ""]
    count: Real[Tensor, ""]
    labels: Float[Tensor, ""]
    distillation: Float[Tensor, ""]


@dataclass(frozen=True)
class Distillation:
    """The loss (1 - λ) CE + λ T² KL(teacher ‖ student), with probabilities at temperature T in the divergence.

    CE is the loss without a teacher, smoothed and weighted as configured. The factor T² keeps the size of the gradient where
    T changes (Hinton et al. 2015, section 2.1). For sequences this is distillation at the level of words (Kim and Rush 2016,
    section 3.1), whose cross-entropy differs from the divergence by the teacher's entropy, which has no gradient.

    Attributes:
        teacher: A run with the same task, vocabulary and classes: the weights of its best checkpoint teach.
        temperature: T, above 0: above 1 the teacher's probabilities are flatter.
        weight: λ, from 0, the loss without a teacher, to 1, the teacher alone.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    teacher: str
    temperature: float = 1.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigurationError(
                f"distillation.temperature={self.temperature} is out of range; write more than 0, such as 2.0"
            )
        if not 0 <= self.weight <= 1:
            raise ConfigurationError(f"distillation.weight={self.weight} is out of range; write 0 to 1, such as 0.5")

    def __call__(self, student: LabelledStates, teacher: LabelledStates) -> DistilledLoss:
        """Compute the loss of the student's states; the labels, weights and chunk of the teacher's are not read."""
        labels, count = student.cross_entropy()
        divergence = self.temperature**2 * kl_divergence(student, teacher, self.temperature)
        total = (1 - self.weight) * labels + self.weight * divergence
        return DistilledLoss(total, count, labels.detach(), divergence.detach())


def kl_divergence(student: LabelledStates, teacher: LabelledStates, temperature: float = 1.0) -> Float[Tensor, ""]:
    """Compute Σ w KL(softmax(t / T) ‖ softmax(s / T)) for the logits t of the teacher and s of the student.

    Gradients for the student, if required, are computed in this forward pass while a chunk's logits exist; there are none for
    the teacher, and there is no second derivative. Under autocast, products are in the lower precision and the softmax is in
    float32.

    Args:
        student: States of the student, whose labels say which positions count, and whose weights are w.
        teacher: States of the teacher at the same positions; its width may be another.
        temperature: T.

    Returns:
        The divergence in nats, summed over the positions that count; 0 if none does.
    """
    own, other, weights = student.hidden, teacher.hidden, student.weights
    counted = (student.labels != IGNORED).nonzero().squeeze(1)
    if len(counted) < len(student.labels):
        own, other = own.index_select(0, counted), other.index_select(0, counted)
        weights = None if weights is None else weights.index_select(0, counted)
    length = chunk_length(len(student.weight), student.chunk, CHUNK)
    dtype = product_dtype(other)
    fixed = _Fixed(
        *(other.to(dtype), teacher.weight.to(dtype), teacher.bias, teacher.cap),
        *(weights, student.cap, temperature, length),
    )
    return _chunked_divergence(own, student.weight, student.bias, fixed, torch.is_grad_enabled())


class _Fixed(NamedTuple):
    """What has no gradient: the teacher's states and output layer, the student's weights and cap, T, positions at a time."""

    hidden: Float[Tensor, "N E"]
    weight: Float[Tensor, "V E"]
    bias: Float[Tensor, " V"] | None
    cap: float | None
    weights: Float[Tensor, " N"] | None
    own_cap: float | None
    temperature: float
    length: int

    def log_probabilities(self, start: int, dtype: torch.dtype) -> Float[Tensor, "n V"]:
        """Return the teacher's log-probabilities at the positions from `start` on."""
        logits = (self.hidden[start : start + self.length] @ self.weight.T).to(dtype)
        if self.bias is not None:
            logits += self.bias
        if self.cap is not None:
            soft_cap_in_place(logits, self.cap)
        return torch.log_softmax(logits / self.temperature, 1)


class _ChunkedDivergence(torch.autograd.Function):
    """The sum over positions, none of them `IGNORED`, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        fixed: _Fixed,
        differentiable: bool,
    ) -> Float[Tensor, ""]:
        gradients = Gradients(hidden, weight, bias, [differentiable and needed for needed in ctx.needs_input_grad])
        dtype = product_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        for start in range(0, len(states), fixed.length):
            chunk = states[start : start + fixed.length]
            logits = (chunk @ matrix.T).to(total.dtype)
            if bias is not None:
                logits += bias
            slopes = None if fixed.own_cap is None else soft_cap_in_place(logits, fixed.own_cap)
            own = torch.log_softmax(logits / fixed.temperature, 1)
            taught = fixed.log_probabilities(start, total.dtype)
            probabilities = taught.exp()
            slope = own.exp() - probabilities
            each = (probabilities * (taught - own)).sum(1)
            if fixed.weights is not None:
                of_chunk = fixed.weights[start : start + fixed.length].to(total.dtype)
                each, slope = each * of_chunk, slope * of_chunk[:, None]
            total += each.sum()
            slope /= fixed.temperature
            gradients.add(start, chunk, matrix, (slope if slopes is None else slope * slopes).to(dtype))
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return *scaled_by(gradient, ctx.saved_tensors), None, None


_chunked_divergence: Callable[..., Tensor] = _ChunkedDivergence.apply
