"""The encoder: every token sees its text, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.models.encoder import Encoder
from etude.models.layers.attention import record_attention
from etude.models.layers.positions import ALiBi, Rotary, TooLongError
from etude.models.layers.residual import PostNorm, PreNorm, Residual
from etude.models.layers.unpad import Unpadding
from etude.optim.finetune.lora import LoRA
from etude.types import Facts

B, L, WIDTH, VOCABULARY = 3, 7, 24, 29
BOTH_NORMS = pytest.mark.parametrize("residual", [PreNorm, PostNorm])


def build(residual: Callable[..., Residual] = PreNorm, segments: int = 1, **parts: Any) -> Encoder:
    torch.manual_seed(1)
    facts = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
    return Encoder(replace(facts, segments=segments), WIDTH, 2, 3, 31, 0.0, 11, residual=residual, **parts).eval()


def batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, VOCABULARY, (B, L), generator=torch.Generator().manual_seed(2))
    return tokens, torch.arange(L) < torch.tensor([[7], [4], [2]])


@BOTH_NORMS
def test_a_token_changes_its_text_only(residual: Callable[..., Residual]) -> None:
    model, (tokens, mask) = build(residual), batch()
    states = model(tokens, mask)
    for row in range(B):
        changed = tokens.clone()
        changed[row, 1] = 3 + (changed[row, 1] - 2) % (VOCABULARY - 3)
        seen = (model(changed, mask) != states).any(dim=2)
        assert torch.equal(seen, mask & torch.eye(B, dtype=torch.bool)[row][:, None]), row


def test_ids_at_padding_change_nothing() -> None:
    model, (tokens, mask) = build(), batch()
    states = model(tokens, mask)
    assert torch.equal(model(torch.where(mask, tokens, 5), mask), states)
    assert states[~mask].count_nonzero() == 0


@BOTH_NORMS
def test_a_text_is_the_same_alone(residual: Callable[..., Residual]) -> None:
    model, (tokens, mask) = build(residual), batch()
    states = model(tokens, mask)
    for row in range(B):
        text = tokens[row][mask[row]][None]
        alone = model(text, torch.ones_like(text, dtype=torch.bool))[0]
        torch.testing.assert_close(states[row][mask[row]], alone, rtol=1e-5, atol=1e-5)


def test_hidden_is_packed_in_the_order_of_the_mask() -> None:
    model, (tokens, mask) = build(), batch()
    assert torch.equal(model.hidden(tokens, mask), model(tokens, mask)[mask])


@BOTH_NORMS
def test_states_at_some_tokens_and_their_gradients_are_those_of_all(residual: Callable[..., Residual]) -> None:
    model, (tokens, mask) = build(residual).double(), batch()
    at = torch.tensor([0, 3, 8, 12])
    weights = torch.randn(len(at), WIDTH, dtype=torch.float64)
    found = []
    for states in (model.hidden(tokens, mask)[at], model.hidden(tokens, mask, at=at)):
        model.zero_grad()
        (states * weights).sum().backward()
        found.append((states, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_the_last_layer_ends_at_the_tokens_that_are_asked_for() -> None:
    model, (tokens, mask) = build(), batch()
    seen: list[int] = []
    for layer in model.layers:
        layer.get_submodule("feed_forward").register_forward_hook(
            lambda _module, _inputs, output: seen.append(len(output))
        )
    assert len(model.hidden(tokens, mask, at=torch.tensor([2, 5]))) == 2
    assert len(model.hidden(tokens, mask, at=torch.tensor([], dtype=torch.int64))) == 0
    real = int(mask.sum())
    assert seen == [real, real, 2, real, real, 0]


ADAPTED = LoRA(rank=2, modules=("query", "value"))


@pytest.mark.parametrize(
    ("parts", "changed", "multiplied"),
    [
        ({}, None, False),
        ({"residual": PostNorm}, None, False),
        ({"attention_dropout": 0.5}, None, False),
        ({"positions": Rotary}, None, True),
        ({"positions": ALiBi}, None, True),
        ({}, ADAPTED, True),
    ],
)
def test_first_states_and_their_gradients_are_those_of_all(
    parts: dict[str, Any], changed: LoRA | None, multiplied: bool
) -> None:
    """Keys and values are made for the last layer where it cannot do without them, and only there."""
    model, (tokens, mask) = build(**parts).double(), batch()
    if changed is not None:
        changed.prepare(nn.ModuleDict({"model": model}))
        for name, weight in model.named_parameters():
            if name.endswith("lora_b"):
                nn.init.normal_(weight)
    made: list[int] = []
    last = model.get_submodule("layers.2.attention.query_key_value")
    last.register_forward_hook(lambda _module, _inputs, output: made.append(len(output)))
    weights = torch.randn(B, WIDTH, dtype=torch.float64)
    found = []
    for states in (model(tokens, mask)[:, 0], model.cls_states(tokens, mask)):
        model.zero_grad()
        (states * weights).sum().backward()
        found.append((states, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
    assert made == [13] * (1 + multiplied)


@pytest.mark.slow
def test_first_states_with_dropout_are_those_of_all_in_the_mean() -> None:
    model, (_, mask) = build(attention_dropout=0.5).double(), batch()
    model.get_submodule("layers.2.attention.attend").train()
    bias = model.get_parameter("layers.2.attention.query_key_value.bias")
    nn.init.normal_(bias)
    torch.manual_seed(3)
    layer, layout = model.layers[2].get_submodule("attention"), Unpadding.from_mask(mask)
    x = torch.randn(13, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        draws = [
            torch.stack([layer(x, layout, at) for _ in range(4000)]) for at in (layout.starts, layout.starts.clone())
        ]
    torch.testing.assert_close(draws[0].mean(dim=0), draws[1].mean(dim=0), rtol=0.1, atol=0.05)
    torch.testing.assert_close(draws[0].std(dim=0), draws[1].std(dim=0), rtol=0.1, atol=0.05)


def test_who_looks_on_sees_what_all_tokens_attend_to() -> None:
    model, (tokens, mask) = build(), batch()
    with record_attention(model) as maps:
        whole = model(tokens, mask)
        every = dict(maps)
        first = model.cls_states(tokens, mask)
    assert maps.keys() == every.keys()
    assert all(torch.equal(maps[name], every[name]) for name in every)
    torch.testing.assert_close(model.cls_states(tokens, mask), whole[:, 0])
    torch.testing.assert_close(first, whole[:, 0])


def test_segments_are_told_apart_where_there_are_two() -> None:
    one, two, (tokens, mask) = build(), build(segments=2), batch()
    segments = (torch.arange(L) > 2).long().expand(B, L)
    assert torch.equal(one(tokens, mask, segments), one(tokens, mask))
    assert torch.equal(two(tokens, mask, torch.zeros_like(tokens)), two(tokens, mask))
    # A text of one segment does not see that the others have two.
    changed = (two(tokens, mask, segments) != two(tokens, mask)).any(dim=2)
    assert changed[:2][mask[:2]].all() and not changed[2].any()
    assert torch.equal(two(tokens, mask, torch.where(mask, segments, 1)), two(tokens, mask, segments))


def test_every_parameter_gets_a_gradient() -> None:
    model, (tokens, mask) = build().train(), batch()
    model.hidden(tokens, mask).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_one_token_too_many_is_refused() -> None:
    tokens = torch.full((1, 12), 5)
    with pytest.raises(TooLongError, match=r"12 tokens is longer than model.max_length = 11"):
        build()(tokens, torch.ones_like(tokens, dtype=torch.bool))


def test_attention_of_every_layer_is_recorded() -> None:
    model, (tokens, mask) = build(), batch()
    with record_attention(model) as maps:
        model(tokens, mask)
    assert {name: tuple(weights.shape) for name, weights in maps.items()} == {
        f"layers.{layer}.attention": (B, 2, L, L) for layer in range(3)
    }
