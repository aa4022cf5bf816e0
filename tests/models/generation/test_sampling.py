"""Draws: their distribution, what each filter leaves, and that they depend on nothing but their key and place."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from etude.models.generation.logit_filters import keep_min_p, keep_top_k, keep_top_p, temper
from etude.models.generation.sampling import draw, uniform
from etude.models.generation.search import Sample

BOS, EOS = 0, 1
ROWS = 4000


class Nothing:
    """The cache of a model that looks at the last token only."""

    def select(self, rows: Tensor) -> Nothing:
        return self


def chain(tokens: Tensor, cache: Nothing) -> tuple[Tensor, Nothing]:
    """The next token's probabilities after each last one; bos never comes again."""
    table = torch.tensor([[0, 0.2, 0.5, 0.3], [0, 1, 0, 0], [0, 0.6, 0.1, 0.3], [0, 0.35, 0.6, 0.05]])
    return table[tokens].log(), cache


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Return Pearson's statistic over the outcomes of known probability, and one for all others together."""
    known = sum(expected.values())
    others = sum(counts.values()) - sum(counts[outcome] for outcome in expected)
    pairs = [(counts[outcome], ROWS * share) for outcome, share in expected.items()]
    pairs += [(others, ROWS * (1 - known))] if known < 1 - 1e-9 else []
    return sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs)


def test_outputs_have_the_models_probabilities() -> None:
    """Seven whole outputs and the rest: 7 degrees of freedom, whose 99.9 % quantile is 24.3."""
    found = Sample(max_length=20, seed=2)(chain, Nothing(), bos=BOS, eos=EOS, rows=ROWS)
    counts = Counter(row[0].tokens for row in found)
    expected = {
        (): 0.2,
        (2,): 0.5 * 0.6,
        (3,): 0.3 * 0.35,
        (2, 2): 0.5 * 0.1 * 0.6,
        (2, 3): 0.5 * 0.3 * 0.35,
        (3, 2): 0.3 * 0.6 * 0.6,
        (3, 3): 0.3 * 0.05 * 0.35,
    }
    assert chi_square(counts, expected) < 24.3
    # The statistic can tell: with another temperature it explodes.
    found = Sample(max_length=20, seed=2, temperature=0.8)(chain, Nothing(), bos=BOS, eos=EOS, rows=ROWS)
    assert chi_square(Counter(row[0].tokens for row in found), expected) > 60


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ({"temperature": 0.5}, [0.04, 0.25, 0.09]),  # squares
        ({"top_k": 2}, [0, 0.5, 0.3]),
        ({"top_p": 0.5}, [0, 1, 0]),
        ({"top_p": 0.51}, [0, 0.5, 0.3]),
        ({"min_p": 0.59}, [0, 0.5, 0.3]),
        ({"temperature": 0.5, "top_p": 0.75}, [0, 0.25, 0.09]),  # .25 / .38 = .66, with .09: .89
    ],
)
def test_filtered_draws_have_the_renormalized_probabilities(values: dict[str, float], shares: list[float]) -> None:
    """Two degrees of freedom: the 99.9 % quantile is 13.8."""
    found = Sample(max_length=1, seed=4, **values)(chain, Nothing(), bos=BOS, eos=EOS, rows=ROWS)  # type: ignore[arg-type]
    counts = Counter(row[0].tokens for row in found)
    total = sum(shares)
    expected = {outcome: share / total for outcome, share in zip([(), (2,), (3,)], shares, strict=True) if share}
    assert set(counts) == set(expected)
    assert chi_square(counts, expected) < 13.8


def test_filters() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.4, 0.1], [0.25, 0.25, 0.25, 0.25]]).log()
    assert keep_top_k(logits, 1).isfinite().tolist() == [[False, True, False, False], [True, False, False, False]]
    assert keep_top_k(logits, 99).isfinite().all()
    assert keep_top_p(logits, 0.41).isfinite().sum(dim=1).tolist() == [2, 2]
    assert keep_top_p(logits, 1e-9).isfinite().sum(dim=1).tolist() == [1, 1]
    assert keep_min_p(logits, 0.3).isfinite().tolist() == [[False, True, True, False], [True] * 4]
    assert keep_min_p(logits, 0.0).isfinite().all()
    kept = keep_top_p(temper(logits, 2.0), 0.5)
    assert torch.equal(kept[kept.isfinite()], (logits / 2)[kept.isfinite()])


def test_no_token_without_a_part_is_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf], [0.0, -math.inf, -math.inf]])
    for number in (0.0, 0.5, 1 - 2**-53):
        assert draw(logits, torch.full((2,), number, dtype=torch.float64)).tolist() == [1, 0]


def test_draws_fill_their_parts_in_order() -> None:
    logits = torch.tensor([0.25, 0.5, 0.25]).log().repeat(5, 1)
    assert draw(logits, torch.tensor([0.0, 0.2, 0.3, 0.7, 0.8], dtype=torch.float64)).tolist() == [0, 0, 1, 1, 2]


def test_numbers_are_those_of_their_key_and_position() -> None:
    numbers = uniform([3, 5, 3], 7)
    assert torch.equal(numbers[0], numbers[2]) and not torch.equal(numbers[0], numbers[1])
    assert torch.equal(uniform([5], 19)[0, :7], numbers[1])
    assert len(set(uniform(range(100), 100).flatten().tolist())) == 10_000


def test_another_seed_gives_other_samples_and_more_samples_change_none() -> None:
    def samples(seed: int, count: int) -> list[list[tuple[int, ...]]]:
        search = Sample(samples=count, seed=seed, max_length=9)
        found = search(chain, Nothing(), bos=BOS, eos=EOS, rows=20, keys=range(100, 120))
        return [[hypothesis.tokens for hypothesis in row] for row in found]

    assert samples(1, 3) == samples(1, 3) != samples(2, 3)
    assert [row[:2] for row in samples(1, 3)] == samples(1, 2)
    assert all(len(row) == 3 for row in samples(1, 3))
    assert any(len(set(row)) > 1 for row in samples(1, 3))
