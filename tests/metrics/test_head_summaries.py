"""Laws of the numbers that describe a head."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.metrics.attention_head import HeadSummary
from etude.metrics.head_summary import head_summaries, opposite

SIZES = st.integers(1, 7)


@given(SIZES, SIZES, st.integers(0, 2**31))
def test_entropies_and_shares_are_in_their_range(queries: int, keys: int, seed: int) -> None:
    weights = torch.rand(3, queries, keys, generator=torch.Generator().manual_seed(seed)).double().softmax(dim=2)
    for head in head_summaries(weights):
        assert type(head) is HeadSummary
        assert 0 <= head.entropy <= math.log(keys) + 1e-9
        assert 0 <= head.distance <= keys - 1
        assert head.diagonal + head.previous + head.next <= 1 + 1e-9
        assert min(head.diagonal, head.previous, head.next, head.first, head.last) >= 0


@given(st.integers(2, 9))
def test_heads_of_one_kind_are_recognised(size: int) -> None:
    diagonal, first = torch.eye(size), torch.zeros(size, size)
    first[:, 0] = 1
    previous = torch.eye(size).roll(-1, dims=1)  # row i attends to i - 1
    previous[0] = torch.eye(size)[0]
    even = torch.full((size, size), 1 / size)
    one, two, three, four = head_summaries(torch.stack([diagonal, first, previous, even]))
    assert (one.entropy, one.distance, one.diagonal, one.previous, one.next) == (0, 0, 1, 0, 0)
    assert (two.first, two.entropy) == (1, 0)
    assert two.distance == pytest.approx((size - 1) / 2)
    assert three.previous == pytest.approx((size - 1) / size)
    assert four.entropy == pytest.approx(math.log(size), rel=1e-5)
    assert four.last == pytest.approx(1 / size)


@given(SIZES, SIZES)
def test_the_diagonal_goes_from_corner_to_corner(queries: int, keys: int) -> None:
    places = opposite(queries, keys).tolist()
    assert places == sorted(places)
    assert (places[0], places[-1] if queries > 1 else keys - 1) == (0, keys - 1)
    assert opposite(keys, keys).tolist() == list(range(keys))
