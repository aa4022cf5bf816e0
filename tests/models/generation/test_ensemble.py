"""Ensembles, and searches over a real Transformer: cached as uncached, scores as teacher forcing gives them."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from etude.models.generation.ensemble import Caches, ensemble, mean_log_probability
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.length_penalty import LengthNormalized
from etude.models.generation.search import Beam, Greedy, Sample, Search
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts

PAD, BOS, EOS, VOCABULARY = 0, 1, 2, 23
FACTS = Facts(vocabulary=VOCABULARY, pad=PAD, bos=BOS, eos=EOS)
LENGTHS = [7, 2, 5, 9, 1, 6]
SEARCHES = [
    Greedy(max_length=21),
    Beam(beams=4, n_best=4, max_length=21),
    Beam(beams=3, length_penalty=LengthNormalized(), n_best=2, max_length=21, min_length=5),
    Sample(samples=2, max_length=21),
]


def build(seed: int) -> Seq2Seq:
    torch.manual_seed(seed)
    model = Seq2Seq(FACTS, 24, 2, 2, 3, 31, 0.0, 32)
    with torch.no_grad():
        model.output_weight.mul_(2)  # far from uniform
        # Some outputs end, some are stopped.
        model.get_parameter("decoder_norm.bias").add_(0.9 * model.output_weight[EOS])
    return model.eval()


def sources() -> list[Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (length,), generator=random) for length in LENGTHS]


def padded(rows: list[Tensor], width: int) -> tuple[Tensor, Tensor]:
    source = torch.stack([torch.cat([row, row.new_full((width - len(row),), PAD)]) for row in rows])
    return source, torch.arange(width) < torch.tensor([[len(row)] for row in rows])


class Prefix(NamedTuple):
    """A cache that remembers nothing but what was chosen."""

    source: Tensor
    mask: Tensor
    tokens: Tensor

    def select(self, rows: Tensor) -> Prefix:
        return Prefix(self.source[rows], self.mask[rows], self.tokens[rows])


@torch.no_grad()
def find(
    models: list[Seq2Seq], search: Search, rows: list[Tensor], width: int, keys: list[int]
) -> list[list[Hypothesis]]:
    source, mask = padded(rows, width)
    caches = [model.start(model.encode(source, mask)) for model in models]
    step, start = ensemble([model.step for model in models]), Caches(tuple(caches))
    if len(models) == 1:
        return search(models[0].step, caches[0], bos=BOS, eos=EOS, rows=len(rows), keys=keys)
    return search(step, start, bos=BOS, eos=EOS, rows=len(rows), keys=keys)


@torch.no_grad()
def forced(models: list[Seq2Seq], row: Tensor, hypothesis: Hypothesis) -> float:
    """Return a hypothesis' log-probability from one pass over all of it."""
    inputs = torch.tensor([[BOS, *hypothesis.tokens]])
    labels = torch.tensor([*hypothesis.tokens, EOS])
    ones = [torch.ones_like(ids, dtype=torch.bool) for ids in (row[None], inputs)]
    probability = torch.stack([model(row[None], inputs, *ones)[0].double().softmax(-1) for model in models]).mean(0)
    each = probability.gather(1, labels[:, None]).log()
    return float(each[: len(hypothesis.tokens) + hypothesis.finished].sum())


def tokens(found: list[list[Hypothesis]]) -> list[list[tuple[tuple[int, ...], bool]]]:
    return [[(hypothesis.tokens, hypothesis.finished) for hypothesis in row] for row in found]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("count", [1, 3])
def test_scores_are_those_of_teacher_forcing(search: Search, count: int) -> None:
    models = [build(seed) for seed in range(count)]
    found = find(models, search, sources(), 9, list(range(6)))
    assert any(hypothesis.finished for row in found for hypothesis in row)
    for row, hypotheses in zip(sources(), found, strict=True):
        for hypothesis in hypotheses:
            assert hypothesis.log_probability == pytest.approx(forced(models, row, hypothesis), abs=1e-5)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("count", [1, 2])
def test_outputs_depend_neither_on_batch_nor_order_nor_padding(search: Search, count: int) -> None:
    models, rows = [build(seed) for seed in range(count)], sources()
    together = tokens(find(models, search, rows, 9, list(range(6))))
    backwards = tokens(find(models, search, rows[::-1], 14, list(range(6))[::-1]))
    assert backwards[::-1] == together
    for key, row in enumerate(rows):
        assert tokens(find(models, search, [row], len(row), [key])) == [together[key]]


@pytest.mark.parametrize("search", SEARCHES)
def test_cached_is_uncached(search: Search) -> None:
    model = build(1)

    def step(last: Tensor, cache: Prefix) -> tuple[Tensor, Prefix]:
        cache = cache._replace(tokens=torch.cat([cache.tokens, last[:, None]], dim=1))
        mask = torch.ones_like(cache.tokens, dtype=torch.bool)
        return model(cache.source, cache.tokens, cache.mask, mask)[:, -1], cache

    source, mask = padded(sources(), 9)
    start = Prefix(source, mask, torch.empty(6, 0, dtype=torch.long))
    with torch.no_grad():
        uncached = search(step, start, bos=BOS, eos=EOS, rows=6, keys=range(6))
    assert tokens(uncached) == tokens(find([model], search, sources(), 9, list(range(6))))


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("copies", [1, 2])
def test_an_ensemble_of_copies_is_the_model(search: Search, copies: int) -> None:
    model, (source, mask) = build(1), padded(sources(), 9)
    with torch.no_grad():
        start = Caches(tuple(model.start(model.encode(source, mask)) for _ in range(copies)))
        found = search(ensemble([model.step] * copies), start, bos=BOS, eos=EOS, rows=6)
    alone = find([model], search, sources(), 9, list(range(6)))
    assert tokens(found) == tokens(alone)
    for ours, theirs in zip(found, alone, strict=True):
        assert [row.score for row in ours] == pytest.approx([row.score for row in theirs], abs=1e-5)


def test_probabilities_are_averaged_not_their_logarithms() -> None:
    found = mean_log_probability([torch.tensor([0.9, 0.1]).log(), torch.tensor([0.2, 0.8]).log()])
    torch.testing.assert_close(found.exp(), torch.tensor([0.55, 0.45]))
    assert mean_log_probability([torch.tensor([-math.inf])] * 2).item() == -math.inf
