"""The decoder: a token sees itself and those before it in its document, alike in a text and step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from etude.models.decoder import Decoder
from etude.models.generation.search import Beam, Greedy, Sample, Search
from etude.models.layers.attention import record_attention
from etude.models.layers.positions import ALiBi, Learned, Positions, Rotary, Sinusoidal, TooLongError
from etude.models.layers.residual import PostNorm, PreNorm, Residual
from etude.types import Facts

B, L, WIDTH, VOCABULARY, MAX_LENGTH = 3, 7, 24, 29, 11
MASK = torch.arange(L) < torch.tensor([[7], [4], [2]])
TOKENS = torch.randint(3, VOCABULARY, (B, L), generator=torch.Generator().manual_seed(2))
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, -1, -1, -1], [0, 0, -1, -1, -1, -1, -1]])
BOTH_NORMS = pytest.mark.parametrize("residual", [PreNorm, PostNorm])
ALL_POSITIONS = pytest.mark.parametrize("positions", [Learned, Sinusoidal, Rotary, ALiBi])


def build(
    residual: Callable[..., Residual] = PreNorm,
    positions: Callable[..., Positions] = Learned,
    max_length: int = MAX_LENGTH,
) -> Decoder:
    torch.manual_seed(1)
    facts = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
    model = Decoder(facts, WIDTH, 2, 3, 31, 0.0, max_length, residual=residual, positions=positions).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@BOTH_NORMS
def test_a_token_changes_what_comes_after_it_in_its_text(residual: Callable[..., Residual]) -> None:
    model = build(residual)
    logits = model(TOKENS, MASK)
    for row in range(B):
        changed = TOKENS.clone()
        changed[row, 1] = 3 + (changed[row, 1] - 2) % (VOCABULARY - 3)
        seen = (model(changed, MASK) != logits).any(dim=2)
        after = torch.eye(B, dtype=torch.bool)[row][:, None] & (torch.arange(L) >= 1)
        assert torch.equal(seen, MASK & after), row


def test_padding_is_zero_and_of_no_account() -> None:
    model = build()
    logits = model(TOKENS, MASK)
    assert torch.equal(model(torch.where(MASK, TOKENS, 5), MASK), logits)
    assert logits[~MASK].count_nonzero() == 0
    torch.testing.assert_close(model.hidden(TOKENS, MASK) @ model.output_weight.T, logits[MASK])


@ALL_POSITIONS
def test_step_by_step_is_the_whole_text(positions: Callable[..., Positions]) -> None:
    model = build(positions=positions)
    whole = torch.ones_like(TOKENS, dtype=torch.bool)
    logits, past = model(TOKENS, whole), model.start(B)
    for place in range(L):
        stepped, past = model.step(TOKENS[:, place], past)
        torch.testing.assert_close(stepped, logits[:, place], rtol=1e-4, atol=1e-4)


@ALL_POSITIONS
def test_a_document_of_a_row_is_the_same_alone(positions: Callable[..., Positions]) -> None:
    model = build(positions=positions)
    logits = model(TOKENS, MASK, DOCUMENTS)
    for row in range(B):
        for document in DOCUMENTS[row].unique():
            cells = DOCUMENTS[row] == document
            if document >= 0:
                alone = model(TOKENS[row, cells][None], torch.ones(1, int(cells.sum()), dtype=torch.bool))
                torch.testing.assert_close(logits[row, cells], alone[0], rtol=1e-4, atol=1e-4)


def gradient_of_one(model: Decoder, tokens: Tensor, cells: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits of some cells, and the gradients that their log-probabilities give to every weight."""
    model.zero_grad()
    logits = model(tokens, MASK, DOCUMENTS)[cells]
    logits.log_softmax(dim=1)[:, 5].sum().backward()
    return logits.detach(), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize(("row", "document"), [(0, 0), (0, 1), (0, 2), (1, 1)])
def test_no_bit_of_a_document_depends_on_another(row: int, document: int) -> None:
    model, cells = build(), torch.zeros_like(MASK)
    cells[row] = DOCUMENTS[row] == document
    mine, gradients = gradient_of_one(model, TOKENS, cells)
    others = torch.where(cells, TOKENS, 3 + (TOKENS + 4) % (VOCABULARY - 3))
    assert (others != TOKENS)[~cells].all()
    again, changed = gradient_of_one(model, others, cells)
    assert torch.equal(mine, again)
    assert len(gradients) == len(list(model.parameters()))
    for before, after in zip(gradients, changed, strict=True):
        assert torch.equal(before, after)


def test_every_parameter_gets_a_gradient() -> None:
    model = build().train()
    model.hidden(TOKENS, MASK).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_weights_begin_as_gpt2s() -> None:
    facts = Facts(vocabulary=499, pad=0, bos=1, eos=2)
    model = Decoder(facts, 64, 2, 8, 256, 0.0, 17)
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
    for layer in cast(list[Any], model.layers):
        for module, scale in (
            (layer.attention.query_key_value, 1.0),
            (layer.feed_forward.inner, 1.0),
            (layer.attention.output, 0.25),
            (layer.feed_forward.outer, 0.25),
        ):
            assert float(module.weight.detach().std()) == pytest.approx(0.02 * scale, rel=0.05)
            assert module.bias.count_nonzero() == 0
    tokens = torch.randint(3, 499, (4, 17))
    logits = model(tokens, torch.ones_like(tokens, dtype=torch.bool))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())
    assert float(loss.detach()) == pytest.approx(math.log(499), rel=0.02)


def test_one_token_too_many_is_refused() -> None:
    tokens = torch.full((1, MAX_LENGTH + 1), 5)
    with pytest.raises(TooLongError, match=r"12 tokens is longer than model.max_length = 11"):
        build()(tokens, torch.ones_like(tokens, dtype=torch.bool))


@pytest.mark.parametrize("max_length", [1, 2, 5, 8])
def test_beyond_its_positions_the_newer_half_is_read_again(max_length: int) -> None:
    model, tokens = build(max_length=max_length), torch.randint(3, VOCABULARY, (2, 19))
    past, begin = model.start(2), 0
    for place in range(tokens.shape[1]):
        logits, past = model.step(tokens[:, place], past)
        if place - begin == max_length:
            begin = place - max_length // 2
        read = tokens[:, begin : place + 1]
        expected = model(read, torch.ones_like(read, dtype=torch.bool))[:, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("search", [Greedy(max_length=20), Beam(max_length=20, beams=3), Sample(max_length=20)])
def test_every_search_decodes_it_alike_alone_and_beside_others(search: Search) -> None:
    model, prompts = build(), [[5, 6, 7], [], [9]]

    def found(rows: list[int]) -> list[tuple[int, ...]]:
        chosen = [prompts[row] for row in rows]
        start = model.start(len(rows))
        hypotheses = search(
            model.step,
            start,
            bos=1,
            eos=2,
            rows=len(rows),
            prefixes=chosen,
            keys=[100 + row for row in rows],
            device=torch.device("cpu"),
        )
        return [best[0].tokens for best in hypotheses]

    with torch.no_grad():
        together = found([0, 1, 2])
        assert found([2, 0]) == [together[2], together[0]]
        assert [found([row])[0] for row in range(3)] == together
    for prompt, tokens in zip(prompts, together, strict=True):
        assert list(tokens[: len(prompt)]) == prompt


def test_attention_of_every_layer_is_recorded_and_causal() -> None:
    model = build()
    with record_attention(model) as maps:
        model(TOKENS, MASK, DOCUMENTS)
    assert list(maps) == [f"layers.{layer}.attention" for layer in range(3)]
    for weights in maps.values():
        assert weights.triu(1).count_nonzero() == 0
        assert weights[0, :, 3:, :3].count_nonzero() == 0
