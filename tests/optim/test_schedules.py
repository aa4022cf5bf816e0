from __future__ import annotations

import math
from dataclasses import replace
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

from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.optim.schedules import (
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    RangeTest,
    Schedule,
    WarmupSchedule,
    WarmupStableDecay,
)

CLOCK = Clock(steps_per_epoch=11, tokens_per_step=97.0)
SCHEDULES: list[WarmupSchedule] = [
    Constant(),
    Linear(final=0.1),
    Cosine(),
    Cosine(final=0.3),
    WarmupStableDecay(final=0.1),
    InverseSquareRoot(),
]


def factor(schedule: WarmupSchedule, position: float, warmup: float, total: float, unit: str = "s") -> float:
    """Return the factor of a schedule with another warm-up; seconds are seldom whole, steps always."""
    return replace(schedule, warmup=f"{warmup}{unit}").factor(position, Duration.parse(f"{total}{unit}"), CLOCK)


def optimizer() -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def factors(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """Return torch's factor for each step from 0."""
    rates = []
    for _ in range(steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@given(warmup=st.just(0.0) | st.floats(0.1, 500), rest=st.floats(2, 500))  # seconds are seldom whole
@settings(max_examples=50)
def test_a_course_rises_to_one_at_the_warmups_end_then_falls(
    schedule: WarmupSchedule, warmup: float, rest: float
) -> None:
    total = warmup + rest
    at = [factor(schedule, position, warmup, total) for position in torch.linspace(0, total, 101).tolist()]
    assert all(0 <= value <= 1 for value in at)
    peak = max(range(101), key=lambda place: at[place])
    assert all(one <= other for one, other in pairwise(at[: peak + 1]))
    assert all(one >= other - 1e-12 for one, other in pairwise(at[peak:]))
    assert factor(schedule, warmup, warmup, total) == pytest.approx(1)
    assert factor(schedule, warmup + 1e-9, warmup, total) == pytest.approx(1, abs=1e-6)
    if warmup:
        assert factor(schedule, warmup * (1 - 1e-9), warmup, total) == pytest.approx(1, abs=1e-6)
        assert factor(schedule, warmup / 2, warmup, total) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_after_the_end_the_rate_stays(schedule: WarmupSchedule) -> None:
    end = factor(schedule, 101, 7, 101)
    assert factor(schedule, 211, 7, 101) == end
    expected = {Constant: 1.0, InverseSquareRoot: math.sqrt(7 / 101)}
    assert end == pytest.approx(expected.get(type(schedule), getattr(schedule, "final", None)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_run_that_ends_in_its_warmup_only_rises(schedule: WarmupSchedule) -> None:
    assert [factor(schedule, position, 5, 3) for position in (1, 2, 3)] == [0.2, 0.4, 0.6]
    assert factor(schedule, 3, 3, 3) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_without_warmup_the_first_step_is_near_the_peak(schedule: WarmupSchedule) -> None:
    assert factor(schedule, 1, 0, 1009) > 0.99


def test_parity_with_transformers_at_every_step() -> None:
    """Their step counts the updates before it: they are at position `step` where we are at step + 1."""
    pairs = {
        Cosine(): get_cosine_schedule_with_warmup(optimizer(), 7, 53),
        Linear(): get_linear_schedule_with_warmup(optimizer(), 7, 53),
        Constant(): get_constant_schedule_with_warmup(optimizer(), 7),
    }
    for ours, theirs in pairs.items():
        assert [factor(ours, step, 7, 53) for step in range(54)] == pytest.approx(factors(theirs, 54))


def test_parity_with_torch_at_every_step() -> None:
    cosine = factors(CosineAnnealingLR(optimizer(), T_max=53, eta_min=0.3), 54)
    assert [factor(Cosine(final=0.3), step, 0, 53) for step in range(54)] == pytest.approx(cosine)
    linear = factors(LinearLR(optimizer(), start_factor=1.0, end_factor=0.3, total_iters=53), 54)
    assert [factor(Linear(final=0.3), step, 0, 53) for step in range(54)] == pytest.approx(linear)


def test_the_inverse_square_root_is_the_papers_equation_3() -> None:
    width, warmup = 512, 4000
    peak = (width * warmup) ** -0.5
    for step in (1, 2, 1999, 3999, 4000, 4001, 8000, 100_000):
        rate = width**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert peak * factor(InverseSquareRoot(), step, warmup, 100_000) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_units_are_converted_by_the_clock(schedule: WarmupSchedule) -> None:
    in_epochs, in_tokens = replace(schedule, warmup="2epoch"), replace(schedule, warmup=f"{22 * 97}tok")
    for step in (1, 21, 22, 23, 50, 55, 70):
        expected = factor(schedule, step, 22, 55, "step")
        assert in_epochs.factor(step, Duration.parse("5epoch"), CLOCK) == expected
        assert in_tokens.factor(step, Duration.parse("55step"), CLOCK) == expected


def test_seconds_and_steps_do_not_mix() -> None:
    with pytest.raises(ConfigurationError, match=r"scheduler\.warmup=3step cannot be compared with the budget 60s"):
        Constant(warmup="3step").factor(1, Duration.parse("1min"), CLOCK)
    assert Constant(warmup="0step").factor(0.5, Duration.parse("1min"), CLOCK) == 1.0


def test_tokens_are_known_to_data_modules_alone() -> None:
    with pytest.raises(ConfigurationError, match=r"scheduler\.warmup=300tok cannot be converted .* datamodule="):
        Constant(warmup="300tok").factor(1, Duration.parse("9step"), Clock(11, math.nan))


def test_without_an_end_only_what_descends_to_it_is_refused() -> None:
    endless = Duration(math.inf, "step")
    assert Constant(warmup="4step").factor(2, endless, CLOCK) == 0.5
    assert InverseSquareRoot(warmup="4step").factor(16, endless, CLOCK) == 0.5
    with pytest.raises(ConfigurationError, match=r"Cosine descends until the end .* max_steps or max_epochs"):
        Cosine(warmup="4step").factor(5, endless, CLOCK)


def test_a_schedule_of_ones_own_needs_no_warmup() -> None:
    class Halving(Schedule):
        def factor(self, position: float, budget: Duration, clock: Clock) -> float:
            return 0.5 ** (position / clock.steps_per_epoch)

    assert Halving().factor(22, Duration.parse("9epoch"), CLOCK) == 0.25


@given(
    warmup=st.integers(0, 20),
    rest=st.integers(2, 400),
    low=st.floats(1e-9, 0.5),
    final=st.sampled_from([0.5001, 1.0, 10]),
)
@settings(max_examples=100)
def test_a_range_test_grows_exponentially_from_end_to_end(warmup: int, rest: int, low: float, final: float) -> None:
    schedule, first = RangeTest(f"{warmup}step", low, final), max(1, warmup)
    total = first + rest
    at = [factor(schedule, position, warmup, total, "step") for position in range(1, total + 1)]
    assert at[first - 1] == pytest.approx(low)
    assert at[-1] == pytest.approx(final)
    ratio = (final / low) ** (1 / rest)
    assert [two / one for one, two in pairwise(at[first - 1 :])] == pytest.approx([ratio] * rest)
    assert at[:first] == pytest.approx([low * position / first for position in range(1, first + 1)])


def test_a_range_test_in_seconds_is_the_same_course() -> None:
    schedule = RangeTest(low=1e-4)
    steps = [factor(schedule, position, 0, 60, "step") for position in range(1, 61)]
    assert [factor(schedule, position, 0, 60, "s") for position in range(1, 61)] == steps
    assert factor(schedule, 0, 0, 60, "s") == 1e-4
    assert factor(schedule, 99, 0, 60, "s") == 1.0


def test_a_range_test_has_an_end_and_two_rates() -> None:
    with pytest.raises(ConfigurationError, match=r"RangeTest rises until the end .* max_steps or max_epochs"):
        RangeTest().factor(5, Duration(math.inf, "step"), CLOCK)
    for low, final in ((0.0, 1.0), (1.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
        with pytest.raises(ConfigurationError, match=r"scheduler.low=\S+ and scheduler.final=\S+ are no range"):
            RangeTest(low=low, final=final)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"scheduler.final=1.5 .* from 0 to 1"):
        Cosine(final=1.5)
    with pytest.raises(ConfigurationError, match="'400' is not a duration"):
        Linear(warmup="400")


def test_a_stable_rate_does_not_depend_on_the_budget_and_then_descends_by_a_root() -> None:
    schedule = WarmupStableDecay(decay=0.25, final=0.1)
    for position in (20.0, 50.0, 80.0):
        assert factor(schedule, position, 20, 100) == factor(schedule, position, 20, 1000) == 1.0
    assert factor(schedule, 85, 20, 100) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(5 / 20)))
    assert factor(schedule, 100, 20, 100) == pytest.approx(0.1)


@pytest.mark.parametrize("decay", [0.0, 1.5, -1.0])
def test_a_descent_is_a_part_of_the_run(decay: float) -> None:
    with pytest.raises(ConfigurationError, match="is not a part of the run"):
        WarmupStableDecay(decay=decay)
