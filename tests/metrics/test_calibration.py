"""The temperature is the best one, and undoes a known one; the calibration error is that of its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.metrics.calibration import COLDEST, HOTTEST, calibration_error, fitted_temperature
from etude.metrics.reliability import BINS


def drawn(seed: int, rows: int, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax, before they are made sharper, is the chance of each label."""
    source = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 4, generator=source, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=source).squeeze(1)
    return sharpness * logits, labels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 5.0))
def test_no_other_temperature_is_better(seed: int, sharpness: float) -> None:
    logits, labels = drawn(seed, 60, sharpness)
    temperature = fitted_temperature(logits, labels)
    best = F.cross_entropy(logits / temperature, labels)
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert F.cross_entropy(logits / (temperature * factor), labels) >= best - 1e-12


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_and_lowers_the_error(sharpness: float) -> None:
    logits, labels = drawn(1, 20_000, sharpness)
    temperature = fitted_temperature(logits, labels)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    assert calibration_error(logits, labels, temperature) < 0.015
    if sharpness != 1:
        assert calibration_error(logits, labels) > 0.05


def test_bounds_hold_where_nothing_is_best() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert fitted_temperature(logits, torch.tensor([0, 1])) == pytest.approx(COLDEST)
    assert fitted_temperature(logits, torch.tensor([1, 0])) == pytest.approx(HOTTEST)


def test_the_error_is_that_of_its_definition() -> None:
    logits, labels = drawn(3, 500, 2.0)
    confidence, guesses = logits.softmax(dim=1).max(dim=1)
    expected = 0.0
    for number in range(BINS):
        inside = (confidence > number / BINS) & (confidence <= (number + 1) / BINS)
        if inside.any():
            accuracy = (guesses == labels)[inside].double().mean()
            expected += float(inside.double().mean() * (accuracy - confidence[inside].mean()).abs())
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-6)
