"""Curves of a classifier: by hand on a few rows, and against their definitions."""

from __future__ import annotations

import pytest
import torch

from etude.metrics.calibration import calibration_error
from etude.metrics.class_curves import THRESHOLDS, precision_over_recall, reliability

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 0])


def test_reliability_by_hand() -> None:
    confidences, accuracies, rows = zip(*reliability(PROBABILITIES, LABELS), strict=True)
    assert confidences == pytest.approx((0.6, 0.7, 0.8, 0.9))
    assert (accuracies, rows) == ((0.0, 1.0, 0.0, 1.0), (1, 1, 1, 1))


def test_the_bins_are_those_of_the_calibration_error() -> None:
    source = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(500, 3, generator=source, dtype=torch.float64)
    labels = torch.randint(3, (500,), generator=source)
    bins = reliability(logits.softmax(dim=1), labels)
    assert sum(rows for *_, rows in bins) == 500
    error = sum(rows * abs(confidence - accuracy) for confidence, accuracy, rows in bins) / 500
    assert error == pytest.approx(calibration_error(logits, labels), abs=1e-6)


def test_precision_and_recall_are_those_at_each_threshold() -> None:
    of_three = torch.cat([PROBABILITIES, torch.zeros(4, 1, dtype=torch.float64)], dim=1)
    points = precision_over_recall(of_three, LABELS)  # no row is of the third class
    reached = int((PROBABILITIES[:, :, None] >= torch.linspace(0, 1, THRESHOLDS, dtype=torch.float64)).any(dim=0).sum())
    assert len(points) == reached
    for number, threshold, precision, recall in points:
        chosen = PROBABILITIES[:, number] >= threshold
        right = int((chosen & (number == LABELS)).sum())
        assert recall == pytest.approx(right / 2)
        assert precision == pytest.approx(right / int(chosen.sum()))
