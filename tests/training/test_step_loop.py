"""Validation and end of a run are functions of the step or of the stopwatch, and repeated calls agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etude.duration import Clock, Duration
from etude.training.step_loop import Length, Milestones

CLOCK = Clock(steps_per_epoch=7, tokens_per_step=100.0)


def test_a_length_is_in_steps_or_in_seconds() -> None:
    assert Length.of(Duration.parse("3epoch"), CLOCK) == Length(21, None)
    assert Length.of(Duration.parse("2min"), CLOCK) == Length(None, 120.0)


@given(st.integers(1, 40), st.integers(1, 15))
def test_validation_follows_each_multiple_and_the_last_step(budget: int, every: int) -> None:
    milestones = Milestones(Length(budget, None), Length(every, None), seconds=lambda: 0.0)
    due = [step for step in range(1, budget + 1) if milestones.validation_due(step)]
    assert due == [step for step in range(1, budget + 1) if step % every == 0 or step == budget]
    assert [step for step in range(1, budget + 1) if milestones.spent(step)] == [budget]


def test_an_interval_in_seconds_is_validated_once() -> None:
    now = 0.0
    milestones = Milestones(Length(None, 100.0), Length(None, 30.0), seconds=lambda: now)
    due = []
    for step in range(1, 12):
        now = 10.0 * step
        if milestones.validation_due(step):
            due.append(now)
        assert milestones.validation_due(step) == (bool(due) and due[-1] == now)
    assert due == [30.0, 60.0, 90.0, 100.0, 110.0]  # each interval; then the budget is spent


def test_rank_0_decides_for_all() -> None:
    follower = Milestones(Length(None, 100.0), Length(5, None), seconds=lambda: 1e9, agreed=lambda decision: False)
    assert not follower.spent(3)
    assert follower.validation_due(5)
