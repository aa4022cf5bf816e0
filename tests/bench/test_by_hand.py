"""The loops by hand compute what etude computes: otherwise comparing their speed would say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etude.commands.bench.decoding import NEVER
from etude.data.loader import framed, pad, token_mask
from etude.models.encoder import Encoder
from etude.models.generation.search import Beam
from etude.models.layers.residual import PostNorm, PreNorm, Residual
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts
from tests.bench.hand_encoder import HandEncoder
from tests.bench.hand_layers import Rows, by_length, copy_weights, cross_entropy
from tests.bench.hand_translation import HandTranslation
from tests.bench.rounds import WARMUP, Stopwatch

FACTS = Facts(vocabulary=40, pad=0, bos=1, eos=2, mask=3)
RNG = np.random.default_rng(7)
SOURCE = [RNG.integers(4, 40, n) for n in (5, 2, 7)]
TARGET = [RNG.integers(4, 40, n) for n in (3, 6, 1)]


def both(residual: type[Residual]) -> tuple[Seq2Seq, HandTranslation]:
    torch.manual_seed(1)
    model = Seq2Seq(FACTS, 16, 2, 2, 2, 32, 0.0, 64, residual=residual)
    for parameter in model.parameters():  # biases too
        torch.nn.init.normal_(parameter, std=0.3)
    hand = HandTranslation(40, width=16, heads=2, layers=2, inner=32, dropout=0.0, post_norm=residual is PostNorm)
    copy_weights(hand, model)
    return model, hand


@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_translation_has_the_same_loss_and_gradients(residual: type[Residual]) -> None:
    model, hand = both(residual)
    source, inputs = [framed(row, None, 2) for row in SOURCE], [framed(row, 1, None) for row in TARGET]
    labels = torch.from_numpy(np.concatenate([framed(row, None, 2) for row in TARGET]))
    hidden = model.hidden(pad(source, 0), pad(inputs, 0), token_mask(source), token_mask(inputs))
    expected = F.cross_entropy(hidden @ model.output_weight.T, labels, reduction="sum", label_smoothing=0.1)
    found = hand.loss(SOURCE, TARGET, 1, 2, 0.1)
    assert torch.allclose(found, expected, rtol=1e-5)
    expected.backward()
    found.backward()
    for mine, theirs in zip(hand.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)


@pytest.mark.parametrize("never_ends", [True, False])
def test_the_search_finds_the_same_translations(never_ends: bool) -> None:
    model, hand = both(PreNorm)
    source, lengths = [framed(row, None, 2) for row in SOURCE], torch.tensor([4, 9, 6])
    with torch.no_grad():
        start = model.eval().start(model.encode(pad(source, 0), token_mask(source)))
        found = Beam(beams=4, length_penalty=0.0)(
            model.step, start, bos=1, eos=NEVER if never_ends else 2, rows=3, max_lengths=lengths
        )
    mine = hand.eval().beam(SOURCE, lengths, 1, 2, 4, never_ends)
    for row, [best, *_] in zip(mine.tolist(), found, strict=True):
        assert tuple(row[: len(best.tokens)]) == best.tokens


def test_the_encoder_has_the_same_states() -> None:
    model = Encoder(FACTS, 16, 2, 2, 32, 0.0, 64, residual=PostNorm)
    hand = HandEncoder(40, width=16, heads=2, layers=2, inner=32, dropout=0.0, max_length=64, eps=1e-5)
    copy_weights(hand, model)
    assert torch.allclose(hand(Rows.of(SOURCE)), model.hidden(pad(SOURCE, 0), token_mask(SOURCE)), atol=1e-5)


def test_the_loss_is_that_of_torch() -> None:
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((700, 8), (40, 8), (40,)))
    labels = torch.randint(40, (700,))
    found = torch.autograd.grad(cross_entropy(x, weight, bias, labels, 0.1), (x, weight, bias))
    loss = F.cross_entropy(F.linear(x, weight, bias), labels, reduction="sum", label_smoothing=0.1)
    for mine, theirs in zip(found, torch.autograd.grad(loss, (x, weight, bias)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)


def test_every_example_is_in_one_batch_of_an_epoch() -> None:
    lengths = RNG.integers(1, 30, (200, 2))
    batches = by_length(lengths, 300, RNG)
    seen: list[int] = []
    while len(seen) < 200:
        seen += next(batches).tolist()
    assert sorted(seen) == list(range(200))


def test_the_warm_up_of_a_round_is_not_counted() -> None:
    watch = Stopwatch(seconds=0)
    assert [watch.over(units=100) for _ in range(WARMUP)] == [False] * WARMUP
    assert watch.over(units=7, loss=2.0)
    assert (watch.work.units, watch.work.loss) == (7, 2.0)
