"""Reliability: bins hold every prediction once, and give the expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.metrics.calibration import calibration_error
from etude.metrics.reliability import reliability


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 9))
def test_every_prediction_is_in_one_bin_which_spans_its_confidence(rows: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = np.array([one for one, _ in rows]), np.array([one for _, one in rows])
    found = reliability(confidence, right, bins)
    assert sum(one.rows for one in found) == len(rows)
    assert sum(one.rows * one.accuracy for one in found) == pytest.approx(right.sum())
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 and one.rows for one in found)


def test_it_gives_the_calibration_error_that_evaluations_report() -> None:
    logits = torch.from_numpy(np.random.default_rng(3).normal(size=(211, 4)))
    labels = torch.arange(211) % 4
    probabilities, classes = logits.softmax(dim=1).max(dim=1)
    found = reliability(probabilities.numpy(), (classes == labels).numpy())
    error = sum(one.rows * abs(one.accuracy - one.confidence) for one in found) / 211
    assert error == pytest.approx(calibration_error(logits, labels), abs=1e-6)


def test_by_hand() -> None:
    found = reliability(np.array([0.1, 0.5, 0.7, 1.0]), np.array([False, True, False, True]), bins=2)
    assert [tuple(one) for one in found] == [
        (0.0, 0.5, 1, 0.1, 0.0),
        (0.5, 1.0, 3, pytest.approx(2.2 / 3), pytest.approx(2 / 3)),
    ]
