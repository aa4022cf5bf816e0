"""Soft-capped logits: bounded, equal to none where the cap is far away; the chunked losses against autograd's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.losses import consistency, cross_entropy
from etude.models.losses.consistency import RDrop
from etude.models.losses.cross_entropy import label_smoothed_cross_entropy
from etude.models.losses.labelled_states import LabelledStates
from etude.models.losses.soft_cap import check_cap, soft_cap, soft_cap_in_place
from etude.types import IGNORED


def tensors(*shapes: tuple[int, ...], seed: int = 1, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


def labels_of(count: int, vocabulary: int, seed: int = 1) -> Tensor:
    return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def plain(logits: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(logits / cap)


@given(st.floats(-1e30, 1e30), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=50)
def test_it_is_odd_and_stays_within_the_cap_and_the_logit(value: float, cap: float) -> None:
    logit = torch.tensor([value], dtype=torch.float64)
    capped = soft_cap(logit, cap)
    assert abs(float(capped)) <= min(cap, abs(value)) * (1 + 1e-12) + 1e-300  # the least numbers have few bits
    assert torch.equal(soft_cap(-logit, cap), -capped)


def test_in_place_it_gives_the_derivative_too() -> None:
    (logits,) = tensors((5, 7))
    logits.requires_grad_()
    capped = soft_cap(logits, 3.0)
    (expected,) = torch.autograd.grad(capped.sum(), logits)
    inside = logits.detach().clone()
    torch.testing.assert_close(soft_cap_in_place(inside, 3.0), expected)
    torch.testing.assert_close(inside, capped.detach())


def test_without_a_cap_logits_are_themselves_and_16_bits_are_capped_in_single() -> None:
    (logits,) = tensors((5, 7))
    assert soft_cap(logits, None) is logits
    half = logits.bfloat16()
    assert torch.equal(soft_cap(half, 3.0), soft_cap(half.float(), 3.0))


@pytest.mark.parametrize("cap", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_bound_is_refused(cap: float) -> None:
    with pytest.raises(ConfigurationError, match=r"^model.logit_cap = .* is out of range; write more than 0"):
        check_cap(cap)
    check_cap(None)
    check_cap(1e-3)


@given(
    sizes=st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 11)),
    chunk=st.integers(1, 5),
    cap=st.sampled_from([0.5, 3.0, 30.0]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    with_bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=80)
def test_the_loss_and_its_gradients_are_those_of_autograd(
    sizes: tuple[int, int, int], chunk: int, cap: float, smoothing: float, with_bias: bool, seed: int
) -> None:
    count, width, vocabulary = sizes
    inputs = [x.requires_grad_() for x in tensors((count, width), (vocabulary, width), (vocabulary,), seed=seed)]
    inputs = inputs if with_bias else inputs[:2]
    labels = labels_of(count, vocabulary, seed)
    labels[::3] = IGNORED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK", chunk)
        total, counted = label_smoothed_cross_entropy(
            inputs[0], inputs[1], labels, smoothing, inputs[2] if with_bias else None, cap
        )
    logits = plain(F.linear(*inputs), cap)
    expected = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)
    assert int(counted) == int((labels != IGNORED).sum())
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradcheck(smoothing: float) -> None:
    inputs = [x.requires_grad_() for x in tensors((6, 3), (5, 3), (5,))]
    labels = labels_of(6, 5)
    labels[4] = IGNORED

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return label_smoothed_cross_entropy(hidden, weight, labels, smoothing, bias, 2.5)[0]

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_cap_far_away_is_none(smoothing: float) -> None:
    hidden, weight = (x.requires_grad_() for x in tensors((7, 3), (5, 3)))
    losses = [
        label_smoothed_cross_entropy(hidden, weight, labels_of(7, 5), smoothing, cap=cap)[0] for cap in (1e6, None)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)
    for far, none in zip(*(torch.autograd.grad(loss, (hidden, weight)) for loss in losses), strict=True):
        torch.testing.assert_close(far, none, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("chunk", [2, 256])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_consistency_loss_is_capped_alike(monkeypatch: pytest.MonkeyPatch, chunk: int, smoothing: float) -> None:
    monkeypatch.setattr(consistency, "CHUNK", chunk)
    first, second, weight = inputs = [x.requires_grad_() for x in tensors((6, 3), (6, 3), (5, 3))]
    labels = labels_of(6, 5)
    passes = (LabelledStates(side, weight, labels, cap=1.5, smoothing=smoothing) for side in (first, second))
    total, _ = RDrop(2.0)(*passes)
    logits = [plain(F.linear(side, weight), 1.5) for side in (first, second)]
    p, q = (side.log_softmax(1) for side in logits)
    entropies = sum(F.cross_entropy(side, labels, reduction="sum", label_smoothing=smoothing) for side in logits)
    divergences = F.kl_div(q, p, reduction="sum", log_target=True) + F.kl_div(p, q, reduction="sum", log_target=True)
    expected = (entropies + divergences) / 2
    torch.testing.assert_close(total, expected)
    for ours, theirs in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_autocast_caps_in_single_precision() -> None:
    hidden, weight = (x.float().requires_grad_() for x in tensors((6, 3), (5, 3)))
    exact, _ = label_smoothed_cross_entropy(hidden, weight, labels_of(6, 5), 0.1, cap=3.0)
    expected = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = label_smoothed_cross_entropy(hidden, weight, labels_of(6, 5), 0.1, cap=3.0)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=1e-2, atol=0)
    for ours, theirs in zip(torch.autograd.grad(total, (hidden, weight)), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.1)
