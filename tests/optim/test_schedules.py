from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from etude.errors import ConfigurationError
from etude.optim.schedules import Constant, Cosine, InverseSquareRoot, Linear, Schedule

SCHEDULES = [Constant(), Linear(final=0.1), Cosine(), Cosine(final=0.3), InverseSquareRoot()]


def optimizer() -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def factors(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """Return torch's factor for each step from 0."""
    found = []
    for _ in range(steps):
        found.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@given(warmup=st.just(0.0) | st.floats(0.1, 500), rest=st.floats(2, 500))  # seconds are seldom whole
@settings(max_examples=50)
def test_a_course_rises_to_one_at_the_warmups_end_then_falls(schedule: Schedule, warmup: float, rest: float) -> None:
    total = warmup + rest
    at = [schedule.multiplier(position, warmup, total) for position in torch.linspace(0, total, 101).tolist()]
    assert all(0 <= factor <= 1 for factor in at)
    peak = max(range(101), key=lambda place: at[place])
    assert all(one <= other for one, other in pairwise(at[: peak + 1]))
    assert all(one >= other - 1e-12 for one, other in pairwise(at[peak:]))
    assert schedule.multiplier(warmup, warmup, total) == pytest.approx(1)
    assert schedule.multiplier(warmup + 1e-9, warmup, total) == pytest.approx(1, abs=1e-6)
    if warmup:
        assert schedule.multiplier(warmup * (1 - 1e-9), warmup, total) == pytest.approx(1, abs=1e-6)
        assert schedule.multiplier(warmup / 2, warmup, total) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_after_the_end_the_rate_stays(schedule: Schedule) -> None:
    end = schedule.multiplier(101, 7, 101)
    assert schedule.multiplier(211, 7, 101) == end
    expected = {Constant: 1.0, InverseSquareRoot: math.sqrt(7 / 101)}
    assert end == pytest.approx(expected.get(type(schedule), getattr(schedule, "final", None)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_run_that_ends_in_its_warmup_only_rises(schedule: Schedule) -> None:
    assert [schedule.multiplier(position, 5, 3) for position in (1, 2, 3)] == [0.2, 0.4, 0.6]
    assert schedule.multiplier(3, 3, 3) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_without_warmup_the_first_step_is_near_the_peak(schedule: Schedule) -> None:
    assert schedule.multiplier(1, 0, 1009) > 0.99


def test_parity_with_transformers_at_every_step() -> None:
    """Their step counts the updates before it: they are at position `step` where we are at step + 1."""
    pairs = {
        Cosine(): get_cosine_schedule_with_warmup(optimizer(), 7, 53),
        Linear(): get_linear_schedule_with_warmup(optimizer(), 7, 53),
        Constant(): get_constant_schedule_with_warmup(optimizer(), 7),
    }
    for ours, theirs in pairs.items():
        assert [ours.multiplier(step, 7, 53) for step in range(54)] == pytest.approx(factors(theirs, 54))


def test_parity_with_torch_at_every_step() -> None:
    cosine = factors(CosineAnnealingLR(optimizer(), T_max=53, eta_min=0.3), 54)
    assert [Cosine(final=0.3).multiplier(step, 0, 53) for step in range(54)] == pytest.approx(cosine)
    linear = factors(LinearLR(optimizer(), start_factor=1.0, end_factor=0.3, total_iters=53), 54)
    assert [Linear(final=0.3).multiplier(step, 0, 53) for step in range(54)] == pytest.approx(linear)


def test_the_inverse_square_root_is_the_papers_equation_3() -> None:
    width, warmup = 512, 4000
    peak = (width * warmup) ** -0.5
    for step in (1, 2, 1999, 3999, 4000, 4001, 8000, 100_000):
        rate = width**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert peak * InverseSquareRoot().multiplier(step, warmup, 100_000) == pytest.approx(rate, rel=1e-12)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"scheduler.final=1.5 .* from 0 to 1"):
        Cosine(final=1.5)
    with pytest.raises(ConfigurationError, match="'400' is no duration"):
        Linear(warmup="400")
