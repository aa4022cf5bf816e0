"""The Transformer: what a position may see, steps equal to the whole, and the same states whatever surrounds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from etude.models.layers.attention import record_attention
from etude.models.layers.positions import Learned, Positions, Sinusoidal, TooLongError
from etude.models.layers.residual import PostNorm, PreNorm, Residual
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts

B, S, T, WIDTH, HEADS, VOCABULARY = 3, 7, 5, 22, 2, 29
FACTS = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
BOTH_NORMS = pytest.mark.parametrize("residual", [PreNorm, PostNorm])


def build(
    residual: Callable[..., Residual] = PreNorm,
    positions: Callable[..., Positions] = Sinusoidal,
    dropout: float = 0.0,
) -> Seq2Seq:
    torch.manual_seed(1)
    model = Seq2Seq(
        FACTS,
        width=WIDTH,
        heads=HEADS,
        encoder_layers=2,
        decoder_layers=3,
        feed_forward=31,
        dropout=dropout,
        max_length=11,
        positions=positions,
        residual=residual,
    )
    return model.eval()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(3, VOCABULARY, (B, S), generator=generator)
    target = torch.randint(3, VOCABULARY, (B, T), generator=generator)
    source_mask = torch.arange(S) < torch.tensor([[7], [4], [2]])
    target_mask = torch.arange(T) < torch.tensor([[3], [5], [1]])
    return source, target, source_mask, target_mask


def other(ids: Tensor, where: Tensor) -> Tensor:
    """Return ids that differ where asked."""
    return torch.where(where, 3 + (ids - 2) % (VOCABULARY - 3), ids)


@BOTH_NORMS
def test_a_target_token_changes_nothing_before_it_and_in_other_rows(residual: Callable[..., Residual]) -> None:
    model, (source, target, source_mask, target_mask) = build(residual), batch()
    logits = model(source, target, source_mask, target_mask)
    for row in range(B):
        for position in range(int(target_mask[row].sum())):
            where = torch.zeros(B, T, dtype=torch.bool)
            where[row, position] = True
            changed = model(source, other(target, where), source_mask, target_mask)
            seen = (changed != logits).any(dim=2)
            expected = torch.zeros(B, T, dtype=torch.bool)
            expected[row, position:] = target_mask[row, position:]
            assert torch.equal(seen, expected), (row, position)


@BOTH_NORMS
def test_a_source_token_changes_its_row_only(residual: Callable[..., Residual]) -> None:
    model, (source, target, source_mask, target_mask) = build(residual), batch()
    logits = model(source, target, source_mask, target_mask)
    for row in range(B):
        where = torch.zeros(B, S, dtype=torch.bool)
        where[row, int(source_mask[row].sum()) - 1] = True
        seen = (model(other(source, where), target, source_mask, target_mask) != logits).any(dim=2)
        assert torch.equal(seen, target_mask & torch.eye(B, dtype=torch.bool)[row][:, None]), row


def test_ids_at_padding_change_nothing() -> None:
    model, (source, target, source_mask, target_mask) = build(), batch()
    logits = model(source, target, source_mask, target_mask)
    changed = model(other(source, ~source_mask), other(target, ~target_mask), source_mask, target_mask)
    assert torch.equal(changed, logits)
    assert logits[~target_mask].count_nonzero() == 0


@pytest.mark.parametrize("positions", [Sinusoidal, Learned])
@BOTH_NORMS
def test_a_row_is_the_same_alone_and_wherever_its_padding_is(
    residual: Callable[..., Residual], positions: Callable[..., Positions]
) -> None:
    model, (source, target, source_mask, target_mask) = build(residual, positions), batch()
    logits = model(source, target, source_mask, target_mask)
    flipped = model(source.flip(1), target.flip(1), source_mask.flip(1), target_mask.flip(1))
    mirrored = [row[mask].flip(0) for row, mask in zip(flipped, target_mask.flip(1), strict=True)]
    for row in range(B):
        real_source, real_target = source[row][source_mask[row]][None], target[row][target_mask[row]][None]
        ones = (torch.ones_like(real_source, dtype=torch.bool), torch.ones_like(real_target, dtype=torch.bool))
        alone = model(real_source, real_target, *ones)[0]
        torch.testing.assert_close(logits[row][target_mask[row]], alone, rtol=1e-5, atol=1e-5)
        backwards = model(real_source.flip(1), real_target.flip(1), *ones)[0]
        torch.testing.assert_close(mirrored[row].flip(0), backwards, rtol=1e-5, atol=1e-5)


def test_hidden_is_packed_in_the_order_of_the_mask_and_gives_the_logits() -> None:
    model, (source, target, source_mask, target_mask) = build(), batch()
    states = model.hidden(source, target, source_mask, target_mask)
    assert states.shape == (int(target_mask.sum()), WIDTH)
    logits = model(source, target, source_mask, target_mask)
    assert torch.equal(logits[target_mask], states @ model.output_weight.T)


@pytest.mark.parametrize("positions", [Sinusoidal, Learned])
@BOTH_NORMS
def test_steps_give_the_logits_of_the_whole(
    residual: Callable[..., Residual], positions: Callable[..., Positions]
) -> None:
    model, (source, target, source_mask, _) = build(residual, positions), batch()
    whole = model(source, target, source_mask, torch.ones_like(target, dtype=torch.bool))
    cache = model.start(model.encode(source, source_mask))
    for position in range(T):
        logits, cache = model.step(target[:, position], cache)
        torch.testing.assert_close(logits, whole[:, position], rtol=2e-6, atol=2e-6)
    assert cache.length == T


def test_selected_rows_go_on_as_those_rows() -> None:
    """Rows are repeated, left out and moved between sentences, then moved within them, then between them again."""
    model, (source, _, source_mask, _) = build(), batch()
    cache, sentences = model.start(model.encode(source, source_mask)), torch.arange(B)
    prefix = torch.empty(B, 0, dtype=torch.long)
    for position, rows in enumerate(([0, 1, 2], [2, 0, 0, 2], [3, 2, 1, 0], [1, 3, 0], [2])):
        chosen = torch.tensor(rows)
        tokens = torch.arange(len(rows)) + 3 + 4 * position
        logits, cache = model.step(tokens, cache.select(chosen))
        sentences, prefix = sentences[chosen], torch.cat([prefix[chosen], tokens[:, None]], dim=1)
        mask = torch.ones_like(prefix, dtype=torch.bool)
        whole = model(source[sentences], prefix, source_mask[sentences], mask)
        torch.testing.assert_close(logits, whole[:, -1], rtol=2e-6, atol=2e-6)


def test_moving_within_sentences_keeps_the_memory_in_place() -> None:
    model, (source, _, source_mask, _) = build(), batch()
    cache = model.start(model.encode(source, source_mask)).select(torch.tensor([0, 0, 1, 1]))
    assert cache.select(torch.tensor([1, 0, 3, 3])).row_memory is cache.row_memory
    assert cache.select(torch.tensor([2, 0, 3, 3])).row_memory is not cache.row_memory


def test_a_cache_can_be_stepped_from_twice() -> None:
    model, (source, target, source_mask, _) = build(), batch()
    _, cache = model.step(target[:, 0], model.start(model.encode(source, source_mask)))
    before = [layer.states.clone() for layer in cache.past]
    first, _ = model.step(target[:, 1], cache)
    model.step(target[:, 2], cache)
    again, _ = model.step(target[:, 1], cache)
    assert torch.equal(first, again)
    assert all(torch.equal(layer.states, states) for layer, states in zip(cache.past, before, strict=True))


def test_one_matrix_embeds_and_predicts() -> None:
    model = build()
    assert model.output_weight is model.embedding.weight
    assert model.output_weight.shape == (VOCABULARY, WIDTH)
    assert [name for name, weight in model.named_parameters() if VOCABULARY in weight.shape] == ["embedding.weight"]


def test_every_parameter_gets_a_gradient() -> None:
    model, (source, target, source_mask, target_mask) = build(dropout=0.1).train(), batch()
    model.hidden(source, target, source_mask, target_mask).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_dropout_only_in_training_and_by_the_seed() -> None:
    model, inputs = build(dropout=0.5), batch()
    torch.manual_seed(1)
    assert torch.equal(model(*inputs), model(*inputs))
    model.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(*inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_new_weights_have_the_stated_scale() -> None:
    torch.manual_seed(1)
    facts = dataclasses.replace(FACTS, vocabulary=997)
    model = Seq2Seq(facts, 64, 4, 1, 3, 128, 0.1, 11)
    assert model.output_weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
    for layer in model.memory.weight.split(128):
        assert layer.abs().max().item() == pytest.approx((6 / (64 + 128)) ** 0.5, rel=0.01)


def test_one_token_too_many_is_refused() -> None:
    model = build()
    tokens = torch.full((1, 12), 5)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with pytest.raises(TooLongError, match=r"12 tokens is longer than model.max_length = 11"):
        model.encode(tokens, mask)
    mask[0, 3] = False
    model.encode(tokens, mask)


def test_attention_of_every_layer_is_recorded() -> None:
    model, (source, target, source_mask, target_mask) = build(), batch()
    with record_attention(model) as maps:
        model(source, target, source_mask, target_mask)
    shapes = {name: tuple(weights.shape) for name, weights in maps.items()}
    assert shapes == {
        **{f"encoder.{layer}.attention": (B, HEADS, S, S) for layer in range(2)},
        **{f"decoder.{layer}.self_attention": (B, HEADS, T, T) for layer in range(3)},
        **{f"decoder.{layer}.cross_attention": (B, HEADS, T, S) for layer in range(3)},
    }
    for layer in range(3):
        assert maps[f"decoder.{layer}.self_attention"].triu(1).count_nonzero() == 0
        unseen = ~source_mask[:, None, None, :]
        assert (maps[f"decoder.{layer}.cross_attention"] * unseen).count_nonzero() == 0
