"""A spike of the loss is told from its noise and from its course, as a pure function of the losses before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.tasks.training_progress import HEIGHT, LEAST, WINDOW, Spikes, spike_height

LOSSES = st.lists(st.integers(-1000, 1000).map(float), min_size=LEAST, max_size=WINDOW + 30)


def test_a_height_worked_by_hand() -> None:
    before = [1.0, 2.0, 3.0, 4.0, 5.0] * 4  # median 3, absolute deviations 2 1 0 1 2: their median is 1
    assert spike_height(3 + 1.4826 * HEIGHT, before) is None
    assert spike_height(3 + 1.4826 * 7, before) == pytest.approx(7)
    assert spike_height(1000.0, before[1:]) is None  # 19 are too few
    assert spike_height(2.5, [2.0] * LEAST) == float("inf")
    assert spike_height(2.0, [2.0] * LEAST) is None


@settings(max_examples=30)
@given(LOSSES, st.integers(-1000, 5000).map(float), st.integers(-3, 3))
def test_units_do_not_matter(before: list[float], loss: float, power: int) -> None:
    scale = 2.0**power
    assert spike_height(loss * scale, [value * scale for value in before]) == spike_height(loss, before)


@settings(max_examples=30)
@given(LOSSES, st.integers(-1000, 5000).map(float))
def test_only_the_window_counts(before: list[float], loss: float) -> None:
    assert spike_height(loss, [9e9] * 7 + before[-WINDOW:]) == spike_height(loss, before) or len(before) < WINDOW


@settings(max_examples=30)
@given(LOSSES)
def test_what_falls_is_no_spike(before: list[float]) -> None:
    assert spike_height(min(before), before) is None


def test_spikes_do_not_hide_the_next_one() -> None:
    noise = np.random.default_rng(0)
    losses = list(3 + 5 * np.exp(-np.arange(400) / 60) + noise.normal(0, 0.05, 400))
    for step in (250, 251, 252, 300):
        losses[step] += 1.0
    spikes = Spikes()
    found = [step for step, loss in enumerate(losses) if spikes.observe(float(loss), step, step, Path("run"))]
    assert found == [250, 251, 252, 300]


def test_a_continued_run_sees_the_same(caplog: pytest.LogCaptureFixture) -> None:
    losses = [1.0, 1.1, 1.2] * 10
    spikes = Spikes(losses)
    continued = Spikes(list(spikes.losses))
    assert spikes.observe(9.0, 61, 80, Path("outputs/x"))
    assert continued.observe(9.0, 61, 80, Path("outputs/x"))
    assert caplog.records[0].message == caplog.records[1].message
    assert "the loss spikes: 9 at the mean of steps 61 to 80" in caplog.text
    assert "1.1 of the last 30; look closer with: etude replay outputs/x step=N, N from 61 to 80" in caplog.text
    assert len(Spikes(range(500)).losses) == WINDOW
