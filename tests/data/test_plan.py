"""Laws of the plan: each example once, equal cost, and nothing that depends on who asks."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data import plan as plan_module
from etude.data.plan import Plan, in_order, random_keys, shuffle_steps
from etude.data.sizes import BatchSize

pools = st.one_of(st.none(), st.integers(1, 9))
batches = st.one_of(
    st.builds(BatchSize, tokens=st.integers(1, 400), pool=pools),
    st.builds(BatchSize, examples=st.integers(1, 50), pool=pools),
)


def lengths_of(draw: st.DataObject, sides: int = 2) -> np.ndarray:
    rows = draw.draw(st.lists(st.tuples(*[st.integers(1, 60)] * sides), min_size=1, max_size=120))
    return np.array(rows)


@given(st.data(), batches, st.integers(0, 2**40), st.integers(0, 50))
def test_each_epoch_has_every_example_exactly_once(
    data: st.DataObject, batch: BatchSize, seed: int, epoch: int
) -> None:
    lengths = lengths_of(data)
    plan = Plan.make(lengths, seed=seed, epoch=epoch, batch=batch)
    seen = np.concatenate([plan.examples(step) for step in range(plan.steps)])
    assert sorted(seen) == list(range(len(lengths)))


@given(st.data(), batches, st.integers(1, 4), st.integers(1, 4))
def test_slices_of_ranks_and_micro_batches_are_disjoint_and_together_the_step(
    data: st.DataObject, batch: BatchSize, world: int, micro_batches: int
) -> None:
    plan = Plan.make(lengths_of(data), seed=1, epoch=0, batch=batch)
    for step in range(plan.steps):
        slices = [
            plan.examples(step, rank, world, micro_batch, micro_batches)
            for micro_batch in range(micro_batches)
            for rank in range(world)
        ]
        np.testing.assert_array_equal(np.concatenate(slices), plan.examples(step))


@given(st.data(), batches)
def test_a_plan_of_some_steps_has_their_batches(data: st.DataObject, batch: BatchSize) -> None:
    whole = Plan.make(lengths_of(data), seed=1, epoch=0, batch=batch, counts=lambda examples: examples + 1)
    steps = data.draw(st.lists(st.integers(0, whole.steps - 1), min_size=1, max_size=9))
    part = whole.only(steps)
    assert part.steps == len(steps)
    for step, origin in enumerate(steps):
        for slot in range(2):
            expected = whole.examples(origin, micro_batch=slot, micro_batches=2)
            np.testing.assert_array_equal(part.examples(step, micro_batch=slot, micro_batches=2), expected)
        assert part.count(step) == whole.count(origin)


@given(st.data(), batches)
def test_every_epoch_has_the_same_number_of_steps_and_none_is_empty(data: st.DataObject, batch: BatchSize) -> None:
    lengths = lengths_of(data)
    plans = [Plan.make(lengths, seed=3, epoch=epoch, batch=batch) for epoch in range(4)]
    assert len({plan.steps for plan in plans}) == 1
    assert all(len(plan.examples(step)) for plan in plans for step in range(plan.steps))


@given(st.data(), st.integers(1, 400), pools)
def test_a_step_holds_at_most_its_tokens_and_one_example_more(
    data: st.DataObject, tokens: int, pool: int | None
) -> None:
    lengths = lengths_of(data)
    plan = Plan.make(lengths, seed=3, epoch=1, batch=BatchSize(tokens=tokens, pool=pool))
    cost = lengths.sum(axis=1)
    limit = max(cost.sum() / plan.steps, 1) + cost.max()
    assert all(cost[plan.examples(step)].sum() <= limit for step in range(plan.steps))


@given(st.data(), batches)
def test_counts_are_the_sums_of_what_their_examples_add(data: st.DataObject, batch: BatchSize) -> None:
    lengths = lengths_of(data)
    plan = Plan.make(lengths, seed=3, epoch=1, batch=batch, counts=lengths[:, 1])
    assert [plan.count(step) for step in range(plan.steps)] == [
        lengths[plan.examples(step), 1].sum() for step in range(plan.steps)
    ]
    assert [plan.tokens_before(step) for step in range(plan.steps + 1)] == [
        0,
        *np.cumsum([lengths[plan.examples(step)].sum() for step in range(plan.steps)]),
    ]


def test_the_plan_is_a_pure_function_and_changes_with_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, (997, 2))

    def order(seed: int, epoch: int) -> list[int]:
        return Plan.make(lengths, seed=seed, epoch=epoch, batch=BatchSize(tokens=500)).order.tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


@given(st.data(), batches, st.integers(1, 4))
def test_a_step_is_sorted_by_length(data: st.DataObject, batch: BatchSize, sides: int) -> None:
    lengths = lengths_of(data, sides)
    plan = Plan.make(lengths, seed=3, epoch=1, batch=batch)
    for step in range(plan.steps):
        assert (np.diff(lengths[plan.examples(step), 0]) >= 0).all()


def test_a_batch_from_a_pool_of_one_is_a_random_sample() -> None:
    """Its mean length varies as much as that of independent draws; from larger pools, more, up to that of all sorted."""
    lengths = np.random.default_rng(0).integers(5, 100, (6400, 1))
    expected = lengths.std() / np.sqrt(32)
    spread = []
    for pool in (1, 4, 50, None):
        plan = Plan.make(lengths, seed=1, epoch=0, batch=BatchSize(examples=32, pool=pool))
        assert plan.steps == 200 and all(len(plan.examples(step)) == 32 for step in range(200))
        spread.append(float(np.std([lengths[plan.examples(step)].mean() for step in range(200)])))
    assert 0.8 * expected < spread[0] < 1.2 * expected
    assert spread == sorted(spread) and spread[-1] > 5 * expected


@pytest.mark.parametrize("pool", [1, 3, None])
def test_pools_leave_evaluation_as_it_is(pool: int | None) -> None:
    lengths = np.random.default_rng(0).integers(3, 40, (997, 2))
    plans = [
        Plan.make(lengths, seed=1, epoch=0, batch=BatchSize(tokens=500, pool=one), shuffle=False)
        for one in (pool, None)
    ]
    np.testing.assert_array_equal(plans[0].order, plans[1].order)


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    lengths = np.arange(7, 18)
    plan = Plan.make(lengths, seed=1, epoch=0, batch=BatchSize(examples=3))
    assert plan.order.tolist() == GOLDEN_ORDER
    random = Plan.make(lengths, seed=1, epoch=0, batch=BatchSize(examples=3, pool=1))
    assert random.order.tolist() == GOLDEN_RANDOM_ORDER


GOLDEN_ORDER = [5, 6, 7, 0, 1, 2, 3, 4, 8, 9, 10]
GOLDEN_RANDOM_ORDER = [5, 7, 8, 0, 1, 2, 3, 6, 4, 9, 10]


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs examples.*\(0, 2\)"):
        Plan.make(np.zeros((0, 2), int), seed=1, epoch=0, batch=BatchSize(tokens=10))


def test_a_million_examples_are_planned_in_a_few_arrays() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, (1_000_000, 2))
    tracemalloc.start()
    Plan.make(lengths, seed=1, epoch=0, batch=BatchSize(tokens=4096))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 8_000_000  # bytes: sixteen arrays of a million int64 at the very most


def share_of_real_positions(lengths: np.ndarray, plan: Plan, slices: int) -> float:
    real = padded = 0
    for step in range(plan.steps):
        for part in range(slices):
            rows = lengths[plan.examples(step, part, slices)]
            real += rows.sum()
            padded += (rows.max(axis=0) * len(rows)).sum() if len(rows) else 0
    return real / padded


@pytest.mark.corpora
@pytest.mark.parametrize("slices", [1, 4])
def test_few_positions_are_padding_on_multi30k(corpus_folder: Path, slices: int) -> None:
    sides = []
    for language in ("en", "de"):
        with gzip.open(corpus_folder / "multi30k" / f"train.{language}.gz", "rt", encoding="utf-8") as file:
            sides.append([len(line.split()) + 1 for line in file])
    lengths = np.array(sides).T
    plan = Plan.make(lengths, seed=1, epoch=0, batch=BatchSize(tokens=3000))
    assert share_of_real_positions(lengths, plan, slices) >= 0.97


def test_windows_of_documents_of_any_length_leave_hardly_any_padding() -> None:
    """Why documents are not joined to rows of full length: rows of like length fill a batch as well as that does."""
    documents = np.random.default_rng(3).lognormal(4.5, 1.3, 8000).astype(np.int64) + 1
    windows = np.concatenate([np.diff([*range(0, length, 126), length]) for length in documents])
    plan = Plan.make(windows + 2, seed=1, epoch=0, batch=BatchSize(tokens=4096))
    rows = [windows[plan.examples(step)] + 2 for step in range(plan.steps)]
    tokens = np.array([row.sum() for row in rows])
    cells = np.array([len(row) * row.max() for row in rows])
    assert 1 - tokens.sum() / cells.sum() < 0.03
    assert tokens.min() > 0.9 * 4096, "batches are full, whatever their windows are"


COLUMNS = st.integers(1, 30).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(-3, 3) | st.integers(-(1 << 40), 1 << 40), min_size=size, max_size=size),
        min_size=1,
        max_size=4,
    )
)


@given(COLUMNS, st.sampled_from([1, 7000]))
def test_the_order_is_that_of_lexsort(columns: list[list[int]], repeated: int) -> None:
    arrays = [np.tile(np.array(column), repeated) for column in columns]
    assert (in_order(*arrays) == np.lexsort(tuple(arrays))).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 9), st.integers(1, 50))
def test_steps_are_moved_whole(sizes: list[int], seed: int, at_once: int) -> None:
    starts = np.concatenate(([0], np.cumsum(sizes)))
    order, keys = np.arange(100, 100 + starts[-1]), random_keys(len(sizes), seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "STEPS_AT_ONCE", at_once)
        moved, ends = shuffle_steps(order, starts, keys)
    wanted = [order[starts[step] : starts[step + 1]].tolist() for step in np.argsort(keys, kind="stable")]
    assert [moved[ends[step] : ends[step + 1]].tolist() for step in range(len(sizes))] == wanted
