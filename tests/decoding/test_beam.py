from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.decoding.beam import beam_search, stable_topk
from etude.decoding.hypothesis import Hypothesis, length_penalty, log_probabilities

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
        limits = torch.tensor([3])
        ((best,),) = beam_search(step, Nothing(), bos=BOS, eos=EOS, limits=limits, beams=beams, alpha=alpha)
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


def test_length_penalty() -> None:
    assert length_penalty(1, 0.7) == 1.0
    assert length_penalty(13, 0.0) == 1.0
    assert length_penalty(7, 2.0) == 4.0  # (12 / 6)²


def test_log_probabilities_are_taken_in_float32_and_a_forbidden_token_leaves_the_others_alone() -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(5)).bfloat16()
    plain, forbidding = log_probabilities(logits), log_probabilities(logits, forbidden=7)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain.exp().sum(dim=-1), torch.ones(3))
    assert forbidding[:, 7].isneginf().all()
    others = [token for token in range(11) if token != 7]
    assert torch.equal(plain[:, others], forbidding[:, others])
