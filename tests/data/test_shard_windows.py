"""Laws of the order of examples in shards."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from etude.data.order.shard_windows import ShardWindows

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=25)
KEYS = st.integers(0, 1 << 62)


@given(SIZES, st.integers(1, 30), KEYS)
def test_every_example_stands_at_one_position_among_those_of_its_window(
    sizes: list[int], window: int, key: int
) -> None:
    order = ShardWindows(np.array(sizes), window, key)
    total = sum(sizes)
    examples = order(np.arange(total))
    assert sorted(examples.tolist()) == list(range(total))
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    position = 0
    for number in range(-(-len(sizes) // window)):
        shards = order.shards_of(number)
        assert {order.window_of(shard) for shard in shards} == {number}
        here = examples[position : position + sum(sizes[shard] for shard in shards)]
        assert set(shard_of[here].tolist()) == set(shards)
        position += len(here)
    assert position == total
    assert order.shards_of(-(-len(sizes) // window)) == []


@given(SIZES, st.integers(1, 30), KEYS, st.data())
def test_any_positions_in_any_order_are_those_of_the_whole(
    sizes: list[int], window: int, key: int, data: st.DataObject
) -> None:
    whole = ShardWindows(np.array(sizes), window, key)(np.arange(sum(sizes)))
    some = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1)))
    assert (ShardWindows(np.array(sizes), window, key)(some) == whole[some]).all()


def test_the_key_chooses_the_order_of_the_shards_and_that_in_a_window() -> None:
    sizes = np.full(40, 50)
    orders = [ShardWindows(sizes, 4, key)(np.arange(2000)) for key in range(3)]
    assert not (orders[0] == orders[1]).mean() > 0.1
    first = orders[0][:200]
    assert len(np.unique(first // 50)) == 4
    assert len(np.unique(first[:20] // 50)) > 1  # mixed, not one shard after the other
    assert not (np.diff(first) > 0).all()
