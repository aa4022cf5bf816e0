"""The steps of a rehearsal: the largest of the plan, and some that stand for all."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from etude.data.plan import Plan
from etude.data.sizes import BatchSize
from etude.training.preflight.rehearsal import KeptBuffers, StepTimer, largest_steps, spread_steps

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=80).map(np.array)
batches = st.one_of(
    st.builds(BatchSize, tokens=st.integers(20, 400), pool=st.sampled_from([None, 1])),
    st.builds(BatchSize, examples=st.integers(1, 20), pool=st.sampled_from([None, 1])),
)


def made(sides: np.ndarray, batch: BatchSize) -> tuple[Plan, list[tuple[int, int, int]]]:
    """A plan, and the padded positions, the longest texts and the examples of each step."""
    plan = Plan.make(sides, seed=1, epoch=0, batch=batch)
    rows = [sides[plan.examples(step)] for step in range(plan.steps)]
    return plan, [(len(texts) * int(texts.max(0).sum()), int(texts.max(0).sum()), len(texts)) for texts in rows]


@given(lengths, batches)
def test_no_step_is_larger_than_the_largest(sides: np.ndarray, batch: BatchSize) -> None:
    plan, sizes = made(sides, batch)
    chosen = largest_steps(plan, sides)
    assert len(set(chosen)) == len(chosen) <= 3
    assert sizes[chosen[0]][0] == max(size[0] for size in sizes)
    for measure in range(3):
        assert max(sizes[step][measure] for step in chosen) == max(size[measure] for size in sizes)


@given(lengths, batches, st.integers(1, 12))
def test_spread_steps_are_of_ascending_size_and_as_different_as_the_plan_has_them(
    sides: np.ndarray, batch: BatchSize, count: int
) -> None:
    plan, sizes = made(sides, batch)
    chosen = spread_steps(plan, sides, count)
    assert [sizes[step][0] for step in chosen] == sorted(sizes[step][0] for step in chosen)
    assert len(chosen) == count
    assert len(set(chosen)) == min(count, plan.steps)
    assert sorted(spread_steps(plan, sides, plan.steps)) == list(range(plan.steps))


def test_the_last_steps_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 100.0, 101.0, 103.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    timer, task = StepTimer(2), SimpleNamespace(device=torch.device("cpu"))
    for step in (1, 1, 2, 3, 4):  # the first has two micro-batches
        trainer: Any = SimpleNamespace(global_step=step)
        timer.on_train_batch_end(trainer, task, None, None, 0)  # type: ignore[arg-type]
    assert timer.seconds_per_step == 1.5


def test_what_gelu_keeps_is_found_in_the_first_micro_batch_alone() -> None:
    kept, nothing = KeptBuffers(), cast(Any, None)
    for rows in (6, 9):
        kept.on_train_batch_start(nothing, nothing, None, 0)
        for width in (16, 16, 4):
            functional.gelu(torch.ones(rows, width))
        functional.gelu(torch.ones(rows, 99), approximate="tanh")
        functional.relu(torch.ones(rows, 99))
        kept.on_before_backward(nothing, nothing, torch.ones(()))
    assert kept.bytes_per_position == (16 + 4) * 4
