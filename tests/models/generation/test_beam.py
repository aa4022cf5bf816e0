from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.generation.beam_search import beam_search
from etude.models.generation.constraint import Constraint
from etude.models.generation.hypothesis import Hypothesis, log_normalizer
from etude.models.generation.length_penalty import GNMT, LengthNormalized, LengthPenalty, Unnormalized
from etude.models.generation.stable_topk import FEW, largest, stable_topk

EOS, BOS, A, B = range(4)
NEVER = 1e-30


class Nothing:
    """The cache of a model that looks at the last token only."""

    def select(self, rows: Tensor) -> Nothing:
        return self


def test_worked_by_hand() -> None:
    """With two beams, the most probable first token turns out to lead nowhere.

    bos ┬ .6 ─ A ┬ .1 ─ eos   .06   not among the two best candidates: not kept
        │        ├ .5 ─ A     .30   live
        │        └ .4 ─ B     .24   live: the best two that do not end
        └ .4 ─ B ┬ .9 ─ eos   .36   finished; nothing live can reach it
                 └ .1 ─ A     .04   discarded
    """
    table = torch.full((4, 4), NEVER)
    table[BOS, A], table[BOS, B] = 0.6, 0.4
    table[A, EOS], table[A, A], table[A, B] = 0.1, 0.5, 0.4
    table[B, EOS], table[B, A] = 0.9, 0.1
    seen: list[list[int]] = []

    def step(tokens: Tensor, cache: Nothing) -> tuple[Tensor, Nothing]:
        seen.append(tokens.tolist())
        return table[tokens].log(), cache

    def search(beams: int, alpha: float) -> Hypothesis:
        limits, penalty = torch.tensor([3]), GNMT(alpha)
        ((best,),) = beam_search(
            step, Nothing(), bos=BOS, limits=limits, constraint=Constraint(EOS), penalty=penalty, beams=beams
        )
        return best

    best = search(beams=2, alpha=0.0)
    assert best.tokens == (B,) and best.finished and best.score == pytest.approx(math.log(0.36))
    assert seen == [[BOS], [A, B]]  # one row first, then two beams; stopped before a third step

    # One beam never sees B: A and A A are followed to the limit.
    seen.clear()
    best = search(beams=1, alpha=0.0)
    assert best.tokens == (A, A, A) and not best.finished and best.score == pytest.approx(math.log(0.15))
    assert seen == [[BOS], [A], [A]]

    # A length penalty of 3 lets the row go on: log .30 / (8/6)^3 = -0.508 could still beat log .36 / (7/6)^3 = -0.643.
    seen.clear()
    best = search(beams=2, alpha=3.0)
    assert best.tokens == (B,) and best.score == pytest.approx(math.log(0.36) / (7 / 6) ** 3)
    assert seen == [[BOS], [A, B], [A, B]]


@given(
    values=st.lists(st.lists(st.sampled_from([0.0, -1.0, 2.5, -math.inf]), min_size=7, max_size=7), min_size=1),
    count=st.integers(1, 7),
)
@settings(max_examples=200, deadline=None)
def test_the_largest_values_come_in_order_of_their_places(values: list[list[float]], count: int) -> None:
    best, places = stable_topk(torch.tensor(values), count)
    for row, row_best, row_places in zip(values, best.tolist(), places.tolist(), strict=True):
        expected = sorted(range(7), key=lambda place: (-row[place], place))[:count]
        assert (row_places, row_best) == (expected, [row[place] for place in expected])


@given(seed=st.integers(0, 10**6), width=st.integers(1, 900), levels=st.integers(1, 400), count=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_the_largest_values_of_wide_rows_are_those_of_torch(seed: int, width: int, levels: int, count: int) -> None:
    """Few levels make many equal values, and some rows end in nothing but minus infinity."""
    random, count = torch.Generator().manual_seed(seed), min(count, width)
    scores = torch.randint(levels, (1 + FEW // width, width), generator=random).float().log()
    values, places = largest(scores, count)
    assert torch.equal(values, scores.topk(count).values) and torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == count for row in places.tolist())


def test_length_penalties() -> None:
    assert GNMT(0.7).divisor(1) == 1.0
    assert GNMT(0.0).divisor(13) == Unnormalized().divisor(13) == 1.0
    assert GNMT(2.0).divisor(7) == 4.0  # (12 / 6)²
    assert [LengthNormalized().divisor(length) for length in (1, 2, 13)] == [1.0, 2.0, 13.0]


@pytest.mark.parametrize("penalty", [Unnormalized(), LengthNormalized(), GNMT(0.0), GNMT(2.5)])
def test_no_divisor_is_smaller_for_a_longer_hypothesis(penalty: LengthPenalty) -> None:
    divisors = [penalty.divisor(length) for length in range(1, 40)]
    assert divisors == sorted(divisors) and divisors[0] > 0


@pytest.mark.parametrize("alpha", [-0.5, math.inf, math.nan])
def test_an_exponent_below_zero_or_not_finite_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match=r"decoding.length_penalty=\S+ is out of range; write 0 or more"):
        GNMT(alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_normalizer_is_taken_in_float32(dtype: torch.dtype) -> None:
    logits = (30 * torch.randn(3, 11, generator=torch.Generator().manual_seed(5))).to(dtype)
    expected = logits.float().logsumexp(dim=-1, keepdim=True)
    found = log_normalizer(logits.clone())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_a_constraint_takes_tokens_out_and_leaves_the_others_alone() -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(5))
    prefixes = torch.tensor([[4, 5], [-1, -1], [6, -1], [7, 7]])
    constraint, rows = Constraint(eos=EOS, min_length=1, prefixes=prefixes), torch.tensor([2, 0, 1])
    first, second = constraint(logits, rows, 1), constraint(logits, rows, 2)
    finite = first.isfinite()
    assert finite.sum(dim=1).tolist() == [1, 1, 10]
    assert finite[0, 6] and finite[1, 4] and not finite[2, EOS]
    assert second.isfinite().sum(dim=1).tolist() == [11, 1, 11]
    assert torch.equal(first[finite], logits[finite])
    assert constraint(logits, rows, 3) is logits  # nothing is copied where everything may be chosen
