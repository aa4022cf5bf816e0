"""R-Drop's loss and gradients against the plain formula, and against the loss of one pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.losses import consistency
from etude.models.losses.consistency import RDrop
from etude.models.losses.labelled_states import LabelledStates
from etude.types import IGNORED

N, D, V = 13, 5, 17


def case(dtype: torch.dtype = torch.float64, rows: int = N) -> tuple[list[Tensor], Tensor]:
    """States of two passes, the matrix and the bias of the output layer; and labels."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows, D), (rows, D), (V, D), (V,))
    inputs = [torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]
    return inputs, torch.randint(V, (rows,), generator=generator)


def r_drop(alpha: float, inputs: list[Tensor], labels: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
    first, second, weight, bias = inputs
    return RDrop(alpha)(*(LabelledStates(side, weight, labels, bias, **rest) for side in (first, second)))


def plain(
    inputs: list[Tensor], labels: Tensor, smoothing: float, alpha: float, weights: Tensor | None = None
) -> Tensor:
    """Half of equation 4 of Liang et al. 2021, summed over positions."""
    first, second, weight, bias = inputs
    kept = labels != IGNORED
    logits = [F.linear(side[kept], weight, bias) for side in (first, second)]
    p, q = (side.log_softmax(1) for side in logits)
    entropies = sum(F.cross_entropy(side, labels[kept], reduction="none", label_smoothing=smoothing) for side in logits)
    divergences = F.kl_div(q, p, reduction="none", log_target=True) + F.kl_div(p, q, reduction="none", log_target=True)
    each = (entropies + alpha * divergences.sum(1) / 2) / 2
    return (each if weights is None else each * weights[kept]).sum()


def test_worked_by_hand() -> None:
    """P = (1/4, 3/4), Q = (1/2, 1/2), the label 1: CE = ln 4/3 and ln 2; KL(P|Q) + KL(Q|P) = 1/4 ln 3."""
    weight, labels = torch.tensor([[0.0], [math.log(3)]]), torch.tensor([1])
    passes = (LabelledStates(torch.tensor([[state]]), weight, labels) for state in (1.0, 0.0))
    total, count = RDrop(3.0)(*passes)
    assert total.item() == pytest.approx((math.log(4 / 3) + math.log(2) + 3 / 2 * math.log(3) / 4) / 2)
    assert int(count) == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alpha", [0.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, chunk: int, smoothing: float, alpha: float, dtype: torch.dtype, weighted: bool
) -> None:
    monkeypatch.setattr(consistency, "CHUNK", chunk)
    inputs, labels = case(dtype)
    labels[3] = labels[12] = IGNORED
    weights = torch.linspace(0.5, 2, N).masked_fill(labels == IGNORED, 0) if weighted else None
    total, count = r_drop(alpha, inputs, labels, smoothing=smoothing, weights=weights)
    expected = plain(inputs, labels, smoothing, alpha, weights)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(total, expected, rtol=tolerance, atol=0)
    assert float(count) == pytest.approx(N - 2 if weights is None else float(weights.sum()))
    for ours, theirs in zip(
        torch.autograd.grad(2 * total, inputs), torch.autograd.grad(2 * expected, inputs), strict=True
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weights", [None, torch.linspace(0.5, 2, N)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_of_two_equal_passes_it_is_the_loss_of_one(smoothing: float, weights: Tensor | None) -> None:
    (hidden, _, weight, bias), labels = case()
    states = LabelledStates(hidden, weight, labels, bias, smoothing=smoothing, weights=weights)
    total, count = RDrop(5.0)(states, states)
    expected, of_one = states.cross_entropy()
    torch.testing.assert_close(total, expected)
    assert count == of_one
    inputs = (hidden, weight, bias)
    for ours, theirs in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_gradients_and_without_positions() -> None:
    inputs, labels = case()
    with torch.no_grad():
        total, _ = r_drop(5.0, inputs, labels)
    torch.testing.assert_close(total, plain(inputs, labels, 0.0, 5.0).detach())
    empty, count = r_drop(5.0, inputs, torch.full_like(labels, IGNORED))
    assert (float(empty.detach()), int(count)) == (0.0, 0)
    assert all(not gradient.any() for gradient in torch.autograd.grad(empty, inputs))


def test_under_autocast_gradients_keep_their_type() -> None:
    inputs, labels = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = r_drop(1.0, inputs, labels)
    assert total.dtype == torch.float32
    assert {gradient.dtype for gradient in torch.autograd.grad(total, inputs)} == {torch.float32}
    torch.testing.assert_close(total, plain(inputs, labels, 0.0, 1.0), rtol=0.05, atol=0)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"task.consistency.alpha=-1 is negative; write 5.0"):
        RDrop(-1)
