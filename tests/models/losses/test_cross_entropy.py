"""The loss against torch's, its gradient against numbers, and its sums against one another."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.losses import cross_entropy
from etude.models.losses.cross_entropy import (
    CHUNK_LOGITS,
    LEAST_CHUNK,
    check_chunk,
    chunk_length,
    label_smoothed_cross_entropy,
)
from etude.types import IGNORED

N, D, V = 13, 5, 17


def case(dtype: torch.dtype = torch.float64, rows: int = N) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_() for shape in ((rows, D), (V, D), (V,))
    )
    labels = torch.randint(V, (rows,), generator=generator)
    return hidden, weight, bias, labels


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def test_worked_by_hand() -> None:
    """Logits (0, ln 3): probabilities 1/4 and 3/4. With ε = 0.2 the label 1 is the distribution (0.1, 0.9)."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    total, count = label_smoothed_cross_entropy(hidden, weight, torch.tensor([1]), smoothing=0.2)
    assert total.item() == pytest.approx(-0.1 * math.log(1 / 4) - 0.9 * math.log(3 / 4))
    assert int(count) == 1


@pytest.mark.parametrize("chunk", [1, 4, 13, 512])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_are_torchs(
    monkeypatch: pytest.MonkeyPatch, chunk: int, smoothing: float, with_bias: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
    hidden, weight, bias, labels = case(dtype)
    labels[3] = labels[12] = IGNORED
    inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
    total, count = label_smoothed_cross_entropy(hidden, weight, labels, smoothing, bias if with_bias else None)
    logits = F.linear(hidden, weight, bias if with_bias else None)
    expected = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert int(count) == N - 2
    for ours, theirs in zip(gradients(total, *inputs), gradients(expected, *inputs), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradcheck(smoothing: float) -> None:
    hidden, weight, bias, labels = case()
    labels[5] = IGNORED

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return label_smoothed_cross_entropy(hidden, weight, labels, smoothing, bias)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


@given(split=st.integers(0, N))
@settings(deadline=None, max_examples=20)
def test_a_batch_is_the_sum_of_its_parts(split: int) -> None:
    hidden, weight, bias, labels = case()
    whole, count = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    parts = [
        label_smoothed_cross_entropy(hidden[rows], weight, labels[rows], 0.1, bias)
        for rows in (slice(split), slice(split, None))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole)
    assert parts[0][1] + parts[1][1] == count
    for ours, theirs in zip(
        gradients(parts[0][0] + parts[1][0], hidden, weight, bias), gradients(whole, hidden, weight, bias), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("labels", [torch.full((3,), IGNORED), torch.tensor([], dtype=torch.long)])
def test_without_positions_the_sum_is_zero_and_so_are_the_gradients(labels: Tensor) -> None:
    hidden, weight, bias, _ = case(rows=len(labels))
    total, count = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    assert (total.item(), count.item()) == (0.0, 0)
    for gradient in gradients(total, hidden, weight, bias):
        assert gradient.count_nonzero() == 0


def test_the_gradient_is_scaled_by_what_follows() -> None:
    hidden, weight, _, labels = case()
    total, count = label_smoothed_cross_entropy(hidden, weight, labels, 0.1)
    mean = gradients(total / count, hidden, weight)
    again, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1)
    for ours, sums in zip(mean, gradients(again, hidden, weight), strict=True):
        torch.testing.assert_close(ours, sums / N)


def test_a_graph_can_be_walked_twice() -> None:
    hidden, weight, _, labels = case()
    total, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1)
    first = torch.autograd.grad(total * 3, hidden, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(total * 3, hidden)[0], first)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_only_what_is_trained_gets_a_gradient(trained: int) -> None:
    *inputs, labels = case()
    for index, x in enumerate(inputs):
        x.requires_grad_(index == trained)
    hidden, weight, bias = inputs
    total, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(gradients(total, inputs[trained])[0], gradients(expected, inputs[trained])[0])


def test_evaluation_makes_no_gradients() -> None:
    hidden, weight, bias, labels = case()
    expected, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    with torch.no_grad(), torch.autograd.profiler.profile() as profile:
        total, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    products = sum(event.count for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm_"))
    assert products == 1
    assert not total.requires_grad
    assert torch.equal(total, expected.detach())


def test_large_logits_stay_finite() -> None:
    hidden, weight = torch.tensor([[1e4]], requires_grad=True), torch.tensor([[1.0], [-1.0], [0.5]])
    total, _ = label_smoothed_cross_entropy(hidden, weight, torch.tensor([1]))
    assert total.item() == pytest.approx(2e4)
    assert gradients(total, hidden)[0].isfinite().all()


def test_autocast_takes_the_softmax_in_single_precision() -> None:
    hidden, weight, bias, labels = case(torch.float32)
    exact, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    expected = gradients(exact, hidden, weight, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.1, bias)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=1e-2, atol=0)
    for ours, theirs in zip(gradients(total, hidden, weight, bias), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.1)


@given(
    vocabulary=st.integers(2, 400_000),
    largest=st.sampled_from([256, 512]),
    asked=st.one_of(st.none(), st.integers(1, 5000)),
)
@settings(deadline=None, max_examples=60)
def test_a_chunk_is_what_was_asked_for_or_follows_from_the_vocabulary(
    vocabulary: int, largest: int, asked: int | None
) -> None:
    length = chunk_length(vocabulary, asked, largest)
    if asked is not None:
        assert length == asked
    elif vocabulary <= 65_536:
        assert length == largest
    else:
        assert LEAST_CHUNK <= length <= largest
        assert length * vocabulary <= CHUNK_LOGITS or length == LEAST_CHUNK


@given(chunk=st.integers(1, 2 * N), smoothing=st.sampled_from([0.0, 0.2]), cap=st.sampled_from([None, 1.5]))
@settings(deadline=None, max_examples=30)
def test_no_chunk_changes_more_than_rounding_and_none_changes_between_calls(
    chunk: int, smoothing: float, cap: float | None
) -> None:
    hidden, weight, bias, labels = case()
    labels[2] = IGNORED

    def computed(chunk: int | None) -> tuple[Tensor, ...]:
        total, _ = label_smoothed_cross_entropy(hidden, weight, labels, smoothing, bias, cap, chunk)
        return total.detach(), *gradients(total / 3, hidden, weight, bias)

    for whole, ours, again in zip(computed(None), computed(chunk), computed(chunk), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)
        assert torch.equal(ours, again)


def test_a_chunk_is_all_the_logits_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []

    def softmax(logits: Tensor) -> Tensor:
        shapes.append(len(logits))
        return logits.logsumexp(1)

    monkeypatch.setattr(cross_entropy, "_softmax_in_place", softmax)
    hidden, weight, _, labels = case()
    label_smoothed_cross_entropy(hidden, weight, labels, chunk=5)
    assert shapes == [5] * (N // 5) + [N % 5] * (N % 5 > 0)


def test_the_gradient_of_the_output_matrix_is_handed_over_not_copied() -> None:
    hidden, weight, _, labels = case()
    total, _ = label_smoothed_cross_entropy(hidden, weight, labels)
    made = total.grad_fn.saved_tensors[1].data_ptr()  # type: ignore[union-attr]
    (total / 3).backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == made


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
def test_torchs_own_chunks_give_the_same() -> None:
    hidden, weight, bias, labels = case()
    labels[3] = IGNORED
    ours, _ = label_smoothed_cross_entropy(hidden, weight, labels, 0.0, bias, chunk=4)
    # Its chunks take no smoothing and no cap.
    options = torch.nn.LinearCrossEntropyOptions()
    theirs = F.linear_cross_entropy(
        hidden, weight, labels, linear_bias=bias, reduction="sum", ignore_index=IGNORED, options=options
    )
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, hidden, weight, bias), gradients(theirs, hidden, weight, bias), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("chunk", [0, -5])
def test_a_chunk_of_nothing_is_refused(chunk: int) -> None:
    check_chunk(None)
    check_chunk(1)
    with pytest.raises(ConfigurationError, match=f"task.chunk_tokens = {chunk} is out of range"):
        check_chunk(chunk)
