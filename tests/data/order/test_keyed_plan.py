"""Laws of the computed plan: those of the stored one, and that it stores no order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.order import keyed_plan
from etude.data.order.document_rows import KeyedRow, StoredRow
from etude.data.order.keyed_plan import KeyedPlan
from etude.data.plan import Plan
from etude.data.sizes import BatchSize

pools = st.integers(1, 9)
batches = st.one_of(
    st.builds(BatchSize, tokens=st.integers(1, 400), pool=pools),
    st.builds(BatchSize, examples=st.integers(1, 50), pool=pools),
)
tables = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=120).map(np.array)


def planned(lengths: np.ndarray, batch: BatchSize, seed: int = 1, epoch: int = 0) -> KeyedPlan:
    return KeyedPlan.make(lengths, seed=seed, epoch=epoch, batch=batch, counts=lambda rows: lengths[rows, 1])


@given(tables, batches, st.integers(0, 2**40), st.integers(0, 50), st.integers(1, 200))
def test_each_epoch_has_every_example_exactly_once(
    lengths: np.ndarray, batch: BatchSize, seed: int, epoch: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed_plan, "AT_ONCE", at_once)
        plan = planned(lengths, batch, seed, epoch)
    seen = np.concatenate([plan.examples(step) for step in range(plan.steps)])
    assert sorted(seen) == list(range(len(lengths)))


@given(tables, batches, st.integers(0, 50))
def test_its_steps_are_as_many_as_those_of_a_stored_plan_and_none_is_empty(
    lengths: np.ndarray, batch: BatchSize, epoch: int
) -> None:
    plan = planned(lengths, batch, epoch=epoch)
    stored = Plan.make(lengths, seed=1, epoch=epoch, batch=batch)
    assert (plan.steps, plan.tokens) == (stored.steps, stored.tokens)
    assert all(len(plan.examples(step)) for step in range(plan.steps))


@given(tables, st.integers(1, 400), pools)
def test_a_step_holds_at_most_its_tokens_and_two_examples_more(lengths: np.ndarray, tokens: int, pool: int) -> None:
    plan = planned(lengths, BatchSize(tokens=tokens, pool=pool))
    cost = lengths.sum(axis=1)
    limit = cost.sum() / plan.steps + 2 * cost.max()
    assert all(cost[plan.examples(step)].sum() <= limit for step in range(plan.steps))


@given(tables, st.integers(1, 50), pools)
def test_steps_of_examples_have_them_all_but_one(lengths: np.ndarray, examples: int, pool: int) -> None:
    plan = planned(lengths, BatchSize(examples=examples, pool=pool))
    sizes = [len(plan.examples(step)) for step in range(plan.steps)]
    assert max(sizes) <= examples + 1 and max(sizes) - min(sizes) <= 2


@given(tables, batches)
def test_what_is_known_of_a_step_is_the_sum_over_its_examples(lengths: np.ndarray, batch: BatchSize) -> None:
    plan = planned(lengths, batch)
    assert [plan.count(step) for step in range(plan.steps)] == [
        lengths[plan.examples(step), 1].sum() for step in range(plan.steps)
    ]
    sums = np.cumsum([lengths[plan.examples(step)].sum() for step in range(plan.steps)])
    assert [plan.tokens_before(step) for step in range(plan.steps + 1)] == [0, *sums]


@given(tables, batches, st.integers(1, 4), st.integers(1, 4))
def test_slices_of_ranks_and_micro_batches_are_disjoint_and_together_the_step(
    lengths: np.ndarray, batch: BatchSize, world: int, micro_batches: int
) -> None:
    plan = planned(lengths, batch)
    for step in range(plan.steps):
        slices = [
            plan.examples(step, rank, world, micro_batch, micro_batches)
            for micro_batch in range(micro_batches)
            for rank in range(world)
        ]
        np.testing.assert_array_equal(np.concatenate(slices), plan.examples(step))


@given(tables, batches, st.randoms(use_true_random=False))
def test_a_step_is_the_same_whichever_was_asked_for_before(
    lengths: np.ndarray, batch: BatchSize, random: object
) -> None:
    plan, jumping = planned(lengths, batch), planned(lengths, batch)
    steps = list(range(plan.steps))
    in_order = [plan.examples(step).tolist() for step in steps]
    random.shuffle(steps)  # type: ignore[attr-defined]
    assert {step: jumping.examples(step).tolist() for step in steps} == dict(enumerate(in_order))
    part = plan.only(steps)
    assert [part.examples(place).tolist() for place in range(len(steps))] == [in_order[step] for step in steps]
    assert [part.count(place) for place in range(len(steps))] == [plan.count(step) for step in steps]


def test_it_changes_with_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, (997, 2))
    batch = BatchSize(tokens=500, pool=4)
    orders = {
        tuple(np.concatenate([part.order for part in planned(lengths, batch, seed, epoch).parts()]))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_a_pool_is_a_random_sample_and_its_steps_have_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, (6400, 1))
    plan = KeyedPlan.make(lengths, seed=1, epoch=0, batch=BatchSize(examples=32, pool=20), counts=lambda rows: rows)
    means = np.array([lengths[plan.examples(step)].mean() for step in range(plan.steps)]).reshape(10, 20)
    assert means.std(axis=1).min() > 15 > 3 > means.mean(axis=1).std()
    for part in plan.parts():
        widths = [np.ptp(lengths[part.examples(step)]) for step in range(part.steps)]
        assert np.mean(widths) < 10
    orders = [tuple(np.argsort(row)) for row in means]
    assert len(set(orders)) == 10  # the steps of each pool are shuffled anew


def test_a_million_examples_are_planned_in_less_than_one_array_of_them() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, (1_000_000, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed_plan, "AT_ONCE", 1 << 14)
        tracemalloc.start()
        plan = KeyedPlan.make(lengths, seed=1, epoch=0, batch=BatchSize(tokens=4096, pool=20), counts=lambda rows: rows)
        plan.examples(plan.steps // 2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000  # bytes: a million int64


def test_a_batch_without_a_pool_and_no_examples_are_refused() -> None:
    for lengths, pool in ((np.ones((3, 1), int), None), (np.ones((0, 1), int), 2)):
        with pytest.raises(ValueError, match="needs examples and a pool"):
            KeyedPlan.make(lengths, seed=1, epoch=0, batch=BatchSize(tokens=9, pool=pool), counts=lengths)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=700), st.integers(0, 99), st.sampled_from([StoredRow, KeyedRow])
)
def test_documents_stand_in_a_row_without_a_gap(sizes: list[int], key: int, kind: type[StoredRow | KeyedRow]) -> None:
    row, position, seen = kind(np.array(sizes), key), 0, list[int]()
    while position < sum(sizes):
        document, end = row.at(position)
        assert row.at(end - 1) == (document, end)
        assert end - position == sizes[document]
        seen.append(document)
        position = end
    assert sorted(seen) == list(range(len(sizes)))


def test_the_shuffles_are_different_orders_of_the_same() -> None:
    sizes = np.arange(1, 400)
    rows = [row(sizes, 5) for row in (StoredRow, KeyedRow)]
    assert rows[0].at(1000) != rows[1].at(1000)
    plans = [
        plan.make(sizes, seed=1, epoch=0, batch=BatchSize(examples=16, pool=4), counts=sizes)
        for plan in (Plan, KeyedPlan)
    ]
    assert [plan.tokens for plan in plans] == [sizes.sum()] * 2
    assert plans[0].examples(0).tolist() != plans[1].examples(0).tolist()
    assert [plan.count(0) for plan in plans] == [sizes[plan.examples(0)].sum() for plan in plans]
