"""Resampling, apart from what sacrebleu's own is held against."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etude.metrics.classification import ClassF1, Matthews
from etude.metrics.resampling import all_scored
from etude.metrics.score import Recomputed


@pytest.mark.parametrize("warn_only", [False, True])
def test_scores_are_computed_outside_deterministic_mode(warn_only: bool) -> None:
    """In that mode torchmetrics compares each row with each pair of classes, where torch's counting is exact on a CPU."""
    seen = []

    def score(rows: np.ndarray) -> float:
        seen.append(torch.are_deterministic_algorithms_enabled())
        if len(seen) == 4:
            raise ZeroDivisionError
        return 0.0

    statistics = {"score": Recomputed(np.zeros((5, 1)), score, None, "nrefs:1")}
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        all_scored(statistics, bootstrap=2)
        with pytest.raises(ZeroDivisionError):
            all_scored(statistics)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [False] * 4


def test_many_classes_in_deterministic_mode() -> None:
    """With a comparison of each row and pair of classes, this would take sixty gigabytes."""
    generator = np.random.default_rng(1)
    labels = generator.integers(600, size=20_000)
    predictions = np.where(generator.random(20_000) < 0.8, labels, generator.integers(600, size=20_000))
    classes = [str(number) for number in range(600)]
    metrics = {"macro_f1": ClassF1(), "matthews": Matthews()}
    statistics = {name: metric.statistics(predictions, labels, classes) for name, metric in metrics.items()}
    torch.use_deterministic_algorithms(True)
    try:
        scores = all_scored(statistics, bootstrap=20)
    finally:
        torch.use_deterministic_algorithms(False)
    for score in scores.values():
        assert score.low is not None and score.high is not None
        assert 0.77 < score.low < score.value < score.high < 0.83
