"""A range test ends where its loss diverges, says how, and has ended there when it is killed and continued."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import ConfigurationError
from etude.training.callbacks.divergence import StopWhenDiverged
from tests.training.callbacks.conftest import OneWeight

BOWL = [4.0, 3.5, 3.0, 2.0, 1.5, 1.0, 1.0, 1.5, 3.0, 9.0, 40.0, 300.0]


def ends_at(callback: StopWhenDiverged, losses: Iterable[float], skipped: int = 0) -> int | None:
    """Return the number of losses after which the callback ends the training; None if it goes on."""
    task, trainer = OneWeight(), SimpleNamespace(should_stop=False)
    for place, loss in enumerate(losses, 1):
        task.last_logged = {"train/loss": loss, "train/skipped_steps": skipped}
        callback.on_train_batch_end(cast(Any, trainer), task, None, None, 0)
        if trainer.should_stop:
            return place
    return None


def test_it_ends_above_a_multiple_of_the_best() -> None:
    callback = StopWhenDiverged(multiple=4.0, smoothing=0.0)
    assert ends_at(callback, BOWL) == BOWL.index(9.0) + 1
    assert callback.reason == "diverged: the smoothed loss is 9, more than 4 times its best, 1"
    assert ends_at(StopWhenDiverged(multiple=400.0, smoothing=0.0), BOWL) is None


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=40),
    st.sampled_from([0.125, 0.5, 2.0, 1024.0]),
    st.sampled_from([0.0, 0.5, 0.9]),
)
@settings(max_examples=200)
def test_the_scale_of_the_loss_does_not_matter(losses: list[float], scale: float, smoothing: float) -> None:
    plain = ends_at(StopWhenDiverged(2.0, smoothing), losses)
    assert ends_at(StopWhenDiverged(2.0, smoothing), [scale * loss for loss in losses]) == plain


@given(st.floats(0.01, 100), st.floats(0, 0.99))
def test_a_constant_loss_never_ends_it(loss: float, smoothing: float) -> None:
    """The average is corrected for its start: a constant is its own average from the first step on."""
    assert ends_at(StopWhenDiverged(1.0 + 1e-9, smoothing), [loss] * 50) is None


def test_a_smoothed_outlier_does_not_end_it() -> None:
    losses = [1.0] * 30 + [20.0] + [1.0] * 30
    assert ends_at(StopWhenDiverged(4.0, 0.0), losses) == 31
    assert ends_at(StopWhenDiverged(4.0, 0.9), losses) is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it(loss: float) -> None:
    callback = StopWhenDiverged()
    assert ends_at(callback, [1.0, 2.0, loss, 1.0]) == 3
    assert callback.reason == "diverged: the loss or its gradient is not finite"


def test_a_step_that_was_left_out_ends_it() -> None:
    callback, task = StopWhenDiverged(), OneWeight()
    assert ends_at(callback, [1.0, 1.0]) is None
    task.last_logged = {"train/skipped_steps": 1}
    trainer: Any = SimpleNamespace(should_stop=False)
    callback.on_train_batch_end(trainer, task, None, None, 0)
    assert trainer.should_stop


def test_values_that_were_logged_once_count_once() -> None:
    callback, task, trainer = StopWhenDiverged(4.0, 0.5), OneWeight(), SimpleNamespace(should_stop=False)
    for loss in (1.0, 6.0):  # twice counted, the average is 4.5
        task.last_logged = {"train/loss": loss}
        for _ in range(3):
            callback.on_train_batch_end(cast(Any, trainer), task, None, None, 0)
    assert callback.state_dict()["count"] == 2
    assert callback.state_dict()["average"] == pytest.approx(0.25 + 3.0)


@pytest.mark.parametrize("saved", range(len(BOWL)))
def test_a_run_that_is_killed_and_continued_ends_at_the_same_step(saved: int) -> None:
    whole, first, continued = (StopWhenDiverged(3.0, 0.6) for _ in range(3))
    end = ends_at(whole, BOWL)
    assert end is not None
    before = ends_at(first, BOWL[:saved])
    continued.load_state_dict(json.loads(json.dumps(first.state_dict())))
    after = ends_at(continued, BOWL[saved:])
    assert end == (before if before is not None else saved + (after or 0))
    assert continued.reason == whole.reason


def test_a_run_that_had_ended_does_no_step_more() -> None:
    ended, continued = StopWhenDiverged(smoothing=0.0), StopWhenDiverged(smoothing=0.0)
    ends_at(ended, BOWL)
    continued.load_state_dict(json.loads(json.dumps(ended.state_dict())))
    for callback, stops in ((continued, True), (StopWhenDiverged(), False)):
        trainer: Any = SimpleNamespace(should_stop=False)
        callback.on_train_start(trainer, OneWeight())
        assert trainer.should_stop == stops


@pytest.mark.parametrize(
    ("arguments", "name"), [({"multiple": 1.0}, "multiple=1.0"), ({"smoothing": 1.0}, "smoothing=1.0")]
)
def test_values_out_of_range_are_refused(arguments: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"callbacks.divergence.{name}"):
        StopWhenDiverged(**arguments)
