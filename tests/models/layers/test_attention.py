"""Attention: worked by hand, equal to its plain form, and blind to what is masked."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.layers.attention import (
    LONGEST_PLAIN,
    Attend,
    CrossAttention,
    SelfAttention,
    attend,
    attention_weights,
    record_attention,
)
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.unpad import Unpadding

B, H, Q, L, K = 2, 3, 5, 7, 11


def tensors(queries: int = Q) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(B, H, length, K, generator=generator) for length in (queries, L, L))
    return query, key, value


def key_mask() -> Tensor:
    return (torch.arange(L) < torch.tensor([[7], [4]]))[:, None, None, :]


def test_worked_by_hand() -> None:
    """Scores of the query are (ln 3, 0) after the scale 1/√4, so that the weights are 3/4 and 1/4."""
    query = torch.tensor([2 * math.log(3), 0.0, 0.0, 0.0]).view(1, 1, 1, 4)
    key = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]).view(1, 1, 2, 4)
    value = torch.tensor([[8.0, 0.0, 4.0, 0.0], [0.0, 16.0, 4.0, 0.0]]).view(1, 1, 2, 4)
    assert attention_weights(query, key).flatten().tolist() == pytest.approx([0.75, 0.25])
    assert attend(query, key, value).flatten().tolist() == pytest.approx([6.0, 4.0, 4.0, 0.0])


def test_causal_worked_by_hand() -> None:
    """Equal scores: query i averages the values 0 to i."""
    query, key = torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, 2)
    value = torch.tensor([[6.0, 0.0], [0.0, 6.0], [3.0, 3.0]]).view(1, 1, 3, 2)
    assert attend(query, key, value, causal=True)[0, 0].tolist() == [[6.0, 0.0], [3.0, 3.0], [3.0, 3.0]]
    thirds = [1 / 3] * 3
    assert attention_weights(query, key, causal=True)[0, 0].flatten().tolist() == pytest.approx(
        [1, 0, 0, 0.5, 0.5, 0, *thirds]
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_fused_equals_plain(masked: bool, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.models.layers.attention.LONGEST_PLAIN", 0)
    query, key, value = tensors(L if causal else Q)
    mask = key_mask() if masked else None
    weights = attention_weights(query, key, mask, causal)
    torch.testing.assert_close(attend(query, key, value, mask, causal), weights @ value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, query.shape[2]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_long_texts_go_through_the_fused_kernel(
    masked: bool, causal: bool, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients are those of the plain products that short ones go through."""
    length, generator = LONGEST_PLAIN + 1, torch.Generator().manual_seed(1)
    given = [torch.randn(B, H, length, K, generator=generator).requires_grad_() for _ in range(3)]
    mask = (torch.arange(length) < torch.tensor([[length], [4]]))[:, None, None, :] if masked else None
    bias = torch.randn(1, H, length, length, generator=generator) if biased else None
    upstream = torch.randn(B, H, length, K, generator=generator)
    fused = attend(given[0], given[1], given[2], mask, causal, bias)
    fused_gradients = torch.autograd.grad(fused, given, upstream)
    monkeypatch.setattr("etude.models.layers.attention.LONGEST_PLAIN", length)
    plain = attend(given[0], given[1], given[2], mask, causal, bias)
    assert not torch.equal(fused, plain), "one and the same path"
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused_gradients, torch.autograd.grad(plain, given, upstream), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("longest_plain", [0, LONGEST_PLAIN])
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_may_attend_nowhere_gets_zeros(
    causal: bool, longest_plain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etude.models.layers.attention.LONGEST_PLAIN", longest_plain)
    query, key, value = (x.requires_grad_() for x in tensors(L if causal else Q))
    mask = key_mask() & torch.tensor([True, False])[:, None, None, None]
    out = attend(query, key, value, mask, causal)
    out.sum().backward()
    assert out[0].abs().min() > 0
    assert out[1].count_nonzero() == 0
    assert attention_weights(query, key, mask, causal)[1].count_nonzero() == 0
    for x in (query, key, value):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad[1].count_nonzero() == 0


def test_weights_of_half_precision_are_computed_in_single() -> None:
    query, key, _ = tensors()
    assert attention_weights(query.bfloat16(), key.bfloat16()).dtype == torch.float32
    assert attention_weights(query.double(), key.double()).dtype == torch.float64


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_trained_in_single(half: torch.dtype, autocast: bool) -> None:
    """On a CPU: outputs and gradients are the exact ones, rounded once."""
    given = [x.to(half).requires_grad_() for x in tensors()]
    exact = [x.detach().float().requires_grad_() for x in given]
    with torch.autocast("cpu", half, enabled=autocast):
        states = attend(given[0], given[1], given[2], key_mask())
    upstream = torch.randn(B, H, Q, K, generator=torch.Generator().manual_seed(2)).to(half)
    states.backward(upstream)
    expected = attend(exact[0], exact[1], exact[2], key_mask())
    expected.backward(upstream.float())
    assert states.dtype == half
    assert torch.equal(states, expected.to(half))
    for one, other in zip(given, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad.to(half))


def test_gradcheck() -> None:
    layout = Unpadding.from_mask(torch.tensor([[True, True, True], [True, False, False]]))
    attention = SelfAttention(6, 2, causal=True).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda states: attention(states, layout), x)


def test_self_attention_sees_neither_padding_nor_other_rows() -> None:
    attention, x = SelfAttention(6, 2), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, False, True, True, False], [True, True, True, False, True]])
    out = attention(x[mask], Unpadding.from_mask(mask))
    alone = [attention(row[real], Unpadding.from_mask(real[real][None])) for row, real in zip(x, mask, strict=True)]
    torch.testing.assert_close(out, torch.cat(alone), rtol=1e-6, atol=1e-6)


def test_steps_equal_the_whole() -> None:
    rows, length, width = 3, 5, 14
    attention = SelfAttention(width, 2, causal=True)
    x = torch.randn(rows, length, width)
    whole = attention(x.flatten(0, 1), Unpadding.from_mask(torch.ones(rows, length, dtype=torch.bool)))
    past = KeyValueCache(torch.empty(rows, 0, 2, 2, 7))
    steps = [attention.step(x[:, position], past) for position in range(length)]
    torch.testing.assert_close(torch.stack(steps, dim=1).flatten(0, 1), whole, rtol=1e-6, atol=1e-6)
    assert past.states.shape == (rows, length, 2, 2, 7)


def test_appending_leaves_the_old_tensor_alone() -> None:
    before = torch.randn(2, 1, 2, 3, 5)
    past = KeyValueCache(before)
    past.append(torch.randn(2, 1, 2, 3, 5))
    assert before.shape[1] == 1
    assert torch.equal(past.states[:, :1], before)


@pytest.mark.parametrize("heads", [7, 0, -3, 1000])
def test_heads_must_divide_the_width(heads: int) -> None:
    message = f"model.heads = {heads} does not divide model.width = 512"
    for attention in (SelfAttention, CrossAttention):
        with pytest.raises(ConfigurationError) as refusal:
            attention(512, heads)
        assert str(refusal.value) == message


def test_recorded_weights_give_the_output() -> None:
    """The recorded probabilities times the values, through the output layer, are what the fused attention returned."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    layout, attention, x = Unpadding.from_mask(mask), SelfAttention(10, 2, causal=True), torch.randn(5, 10)
    with record_attention(torch.nn.ModuleDict({"only": attention})) as maps:
        out = attention(x, layout)
    ((name, weights),) = maps.items()
    assert name == "only"
    assert weights.shape == (2, 2, 3, 3)
    values = layout.pad(attention.query_key_value(x)[:, 20:]).view(2, 3, 2, 5).transpose(1, 2)
    mixed = layout.unpad((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention.output(mixed), out, rtol=1e-5, atol=1e-6)


def test_recording_ends_with_its_context() -> None:
    attention, layout = SelfAttention(4, 1), Unpadding.from_mask(torch.ones(1, 2, dtype=torch.bool))
    with record_attention(attention) as maps:
        pass
    attention(torch.randn(2, 4), layout)
    assert maps == {}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_bias_is_added_to_the_scores(masked: bool, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.models.layers.attention.LONGEST_PLAIN", 0)
    query, key, value = tensors(L if causal else Q)
    bias = torch.randn(1, H, query.shape[2], L)
    mask = key_mask() if masked else None
    weights = attention_weights(query, key, mask, causal, bias)
    torch.testing.assert_close(attend(query, key, value, mask, causal, bias), weights @ value, rtol=1e-5, atol=1e-6)
    unmasked = (query @ key.mT / math.sqrt(K) + bias).softmax(-1)
    if not masked and not causal:
        torch.testing.assert_close(weights, unmasked)


@pytest.mark.parametrize("longest_plain", [0, LONGEST_PLAIN])
def test_a_biased_query_that_may_attend_nowhere_gets_zeros(longest_plain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.models.layers.attention.LONGEST_PLAIN", longest_plain)
    query, key, value = (x.requires_grad_() for x in tensors())
    mask = key_mask() & torch.tensor([True, False])[:, None, None, None]
    out = attend(query, key, value, mask, bias=torch.randn(1, H, Q, L))
    out.sum().backward()
    assert out[1].count_nonzero() == 0
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (query, key, value))


def test_dropout_of_probabilities() -> None:
    """Equal scores and values of one: a query's output is the sum of what is left of its probabilities."""
    length, rate = 64, 64 / 256
    module = Attend(dropout=rate).train()
    query, value = torch.zeros(50, 4, length, 2), torch.ones(50, 4, length, 2)
    torch.manual_seed(1)
    sums = module(query, query, value, None)
    assert torch.equal(sums[..., 0], sums[..., 1])
    kept = sums[..., 0].double() * length * (1 - rate)
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-3)
    count = kept.numel() * length
    assert abs(float(kept.sum()) / count - (1 - rate)) < 6 * math.sqrt(rate * (1 - rate) / count)
    torch.manual_seed(1)
    assert torch.equal(module(query, query, value, None), sums)
    assert torch.equal(module.eval()(query, query, value, None), attend(query, query, value))


def test_dropped_probabilities_stay_within_rows_and_the_past() -> None:
    layout = Unpadding.from_mask(torch.tensor([[True, True, True], [True, False, False]]))
    attention = SelfAttention(6, 2, causal=True, dropout=0.5).train()
    x = torch.randn(4, 6, requires_grad=True)
    for position, seen in enumerate(([0], [0, 1], [0, 1, 2], [3])):
        torch.manual_seed(position)
        (gradient,) = torch.autograd.grad(attention(x, layout)[position].sum(), x)
        assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) <= set(seen)
