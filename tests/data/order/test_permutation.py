"""Laws of the computed permutation: a bijection of any size, with an inverse, and every one as likely as another."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.order.permutation import LARGEST, KeyedPermutation

keys = st.integers(0, 2**63 - 1)


@given(st.integers(1, 3000), keys)
def test_every_number_stands_at_one_position(size: int, key: int) -> None:
    numbers = KeyedPermutation(size, key)(np.arange(size))
    assert sorted(numbers.tolist()) == list(range(size))


@given(st.integers(1, LARGEST), keys, st.data())
def test_the_inverse_says_where_a_number_stands(size: int, key: int, data: st.DataObject) -> None:
    permutation = KeyedPermutation(size, key)
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=50)), np.int64)
    numbers = permutation(places)
    assert (numbers >= 0).all() and (numbers < size).all()
    np.testing.assert_array_equal(permutation.inverse(numbers), places)
    np.testing.assert_array_equal(permutation(permutation.inverse(places)), places)


@given(st.integers(1, 100_000), keys, st.integers(0, 99))
def test_a_position_needs_no_other(size: int, key: int, part: int) -> None:
    permutation, start = KeyedPermutation(size, key), size * part // 100
    some = np.arange(start, min(size, start + 40))
    np.testing.assert_array_equal(permutation(np.arange(size))[some], permutation(some))


def test_keys_choose_different_permutations() -> None:
    orders = {tuple(KeyedPermutation(100, key)(np.arange(100)).tolist()) for key in range(50)}
    assert len(orders) == 50


def chi_square(counts: np.ndarray) -> float:
    """Return the statistic of equal frequencies, in standard deviations above its mean."""
    expected, free = counts.mean(), counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_permutations_are_equally_frequent(size: int) -> None:
    draws = 15 * math.factorial(size)
    found = Counter(tuple(KeyedPermutation(size, key)(np.arange(size)).tolist()) for key in range(draws))
    counts = np.array([found[order] for order in itertools.permutations(range(size))])
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize("size", [9, 17, 50, 64])
def test_a_number_is_equally_often_at_each_position_and_behind_each_other(size: int) -> None:
    orders = np.array([KeyedPermutation(size, key)(np.arange(size)) for key in range(1000)])
    at = np.array([np.bincount(column, minlength=size) for column in orders.T])
    assert abs(chi_square(at)) < 4
    behind = np.bincount((np.diff(orders, axis=1) % size).ravel(), minlength=size)[1:]
    assert abs(chi_square(behind)) < 4


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    assert KeyedPermutation(11, 1)(np.arange(11)).tolist() == GOLDEN


GOLDEN = [5, 3, 8, 9, 2, 7, 6, 10, 4, 0, 1]


def test_its_memory_does_not_grow_with_its_size() -> None:
    tracemalloc.start()
    KeyedPermutation(LARGEST, 1)(np.arange(100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000  # bytes


def test_sizes_and_positions_that_are_none_are_refused() -> None:
    for size in (0, LARGEST + 1):
        with pytest.raises(ValueError, match=str(size)):
            KeyedPermutation(size, 1)
    for place in (-1, 7):
        with pytest.raises(IndexError, match=r"of 7"):
            KeyedPermutation(7, 1)(np.array([place]))
