"""The sample that tokenizers are trained on."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from etude.tokenization.training_sample import sample


@given(st.lists(st.text(min_size=1, max_size=7), max_size=31), st.integers(1, 50), st.randoms())
def test_bounded_a_part_and_independent_of_order(texts: list[str], limit: int, order: random.Random) -> None:
    kept = sample(texts, limit)
    assert sum(map(len, kept)) <= limit or len(set(kept)) <= 1
    remaining = iter(texts)
    assert all(text in remaining for text in kept), "not in the order in which they came"
    assert bool(kept) == bool(texts)
    shuffled = order.sample(texts, len(texts))
    assert sorted(sample(shuffled, limit)) == sorted(kept)


def test_few_texts_are_all_kept() -> None:
    assert sample(["b", "a", "b"], 3) == ["b", "a", "b"]


def test_a_part_is_spread_over_the_stream() -> None:
    texts = [f"text {number}" for number in range(10_000)]
    kept = [texts.index(text) for text in sample(texts, 20_000)]
    assert 1_000 < len(kept) < 2_600
    assert abs(sum(kept) / len(kept) - 5_000) < 500
