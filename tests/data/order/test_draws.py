"""Laws of a mixture's draws: exact shares in each block, each part without repetition, and a function of the position."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.order.draws import OUT_OF, Draws, apportioned, grouped

mixtures = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=4)


def drawing(mixture: list[tuple[int, int]], key: int = 3) -> Draws:
    sizes, weights = zip(*mixture, strict=True)
    return Draws(sizes, weights, [key + part for part in range(len(mixture))], key)


@given(mixtures, st.integers(0, 1000), st.integers(1, 9), st.integers(0, 2**62))
def test_each_block_has_exactly_its_shares(mixture: list[tuple[int, int]], first: int, blocks: int, key: int) -> None:
    draws = drawing(mixture, key)
    parts = draws.at(np.arange(first * draws.block, (first + blocks) * draws.block)).parts.reshape(blocks, draws.block)
    weights = np.array([weight for _, weight in mixture])
    for block in parts:
        counts = np.bincount(block, minlength=len(mixture))
        assert (counts * weights.sum() == weights * draws.block).all()


@given(mixtures, st.integers(0, 2**62))
def test_a_part_gives_all_its_examples_before_any_comes_again(mixture: list[tuple[int, int]], key: int) -> None:
    draws = drawing(mixture, key)
    drawn = draws.at(np.arange(40 * draws.block))
    for part, (size, _) in enumerate(mixture):
        epochs, examples = drawn.epochs[drawn.parts == part], drawn.examples[drawn.parts == part]
        for epoch in range(len(epochs) // size):
            assert sorted(examples[epochs == epoch]) == list(range(size))
        assert max(Counter(examples[epochs == epochs.max()].tolist()).values()) == 1


@given(mixtures, st.lists(st.integers(0, 100), min_size=1, max_size=40))
def test_a_position_needs_no_other(mixture: list[tuple[int, int]], positions: list[int]) -> None:
    whole, some = drawing(mixture).at(np.arange(101)), drawing(mixture).at(np.array(positions))
    for all_of_them, asked_for in zip(whole, some, strict=True):
        np.testing.assert_array_equal(all_of_them[positions], asked_for)


def test_blocks_and_orders_differ_by_key_and_by_block() -> None:
    mixture = [(20, 5), (7, 4)]
    parts = [tuple(drawing(mixture, key).at(np.arange(9)).parts) for key in range(20)]
    assert len(set(parts)) > 15
    blocks = drawing(mixture).at(np.arange(180)).parts.reshape(20, 9)
    assert len({tuple(block) for block in blocks}) > 15
    drawn = drawing(mixture).at(np.arange(400))
    first = drawn.examples[drawn.parts == 0]
    assert first[:20].tolist() != first[20:40].tolist()


def test_a_common_factor_makes_no_larger_block() -> None:
    assert Draws([5, 5], [75, 25], [1, 2], 3).block == 4


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_groups_are_the_places_of_equal_pairs(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    found = {pair: sorted(places.tolist()) for pair, places in grouped(first, second)}
    assert found == {pair: [place for place, one in enumerate(pairs) if one == pair] for pair in set(pairs)}


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9), st.floats(0.5, 20))
def test_weights_by_size_are_the_nearest_to_their_shares(sizes: list[int], temperature: float) -> None:
    weights = apportioned(sizes, temperature)
    powers = np.array([float(size) ** (1 / temperature) for size in sizes])
    assert sum(weights) == OUT_OF
    assert (np.abs(np.array(weights) - powers / powers.sum() * OUT_OF) < 1.001).all()


@pytest.mark.parametrize(("temperature", "weights"), [(1, [900, 100]), (2, [750, 250]), (1e9, [500, 500])])
def test_a_temperature_evens_weights_out(temperature: float, weights: list[int]) -> None:
    assert apportioned([900, 100], temperature) == weights
