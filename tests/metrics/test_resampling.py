"""Resampling, apart from what sacrebleu's own is held against."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.metrics.classification import ClassF1, Matthews
from etude.metrics.resampling import all_scored, holm, paired_p_value, pooled_p_value, scored
from etude.metrics.score import Summed, mean_of_rows


def test_many_classes_in_deterministic_mode() -> None:
    """With a comparison of each row and pair of classes, as in torchmetrics in that mode, this would take sixty gigabytes."""
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


# Several tests and several pairs

ROWS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def means(values: Sequence[float]) -> Summed:
    return mean_of_rows(np.array(values, dtype=np.float64), "nrefs:1", (0.0, 1.0))


@given(ROWS)
def test_one_pair_is_tested_as_ever_and_again_and_again_is_the_same(rows: list[tuple[float, float, float]]) -> None:
    first, second, _ = (means(column) for column in zip(*rows, strict=True))
    alone = paired_p_value(first, second, trials=200)
    assert pooled_p_value([(first, second)], trials=200) == alone
    assert pooled_p_value([(first, second)] * 3, trials=200) == alone  # the same outputs thrice say nothing more
    assert pooled_p_value([(second, first)] * 2, trials=200) == alone


@given(ROWS)
def test_differences_that_cancel_out_are_none(rows: list[tuple[float, float, float]]) -> None:
    first, second, third = (means(column) for column in zip(*rows, strict=True))
    assert pooled_p_value([(first, second), (second, first)], trials=100) == 1.0
    assert pooled_p_value([(third, third)], trials=100) == 1.0


def test_what_is_small_in_each_seed_is_found_over_several() -> None:
    """Each pair alone is drowned in the noise of its rows; their mean is not."""
    generator = np.random.default_rng(1)
    noises = generator.normal(0, 1, size=(12, 100))
    pairs = [(means(np.zeros(100).tolist()), means((0.25 + noise).tolist())) for noise in noises]
    single = [paired_p_value(first, second, trials=1000) for first, second in pairs]
    assert pooled_p_value(pairs, trials=1000) < 0.01 < max(single)


P_VALUES = st.lists(st.floats(0, 1), max_size=8)


@given(P_VALUES)
def test_holm_keeps_the_order_and_is_between_the_p_value_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert len(corrected) == len(p_values)
    for p, one in zip(p_values, corrected, strict=True):
        assert p <= one <= min(1.0, len(p_values) * p) or one == pytest.approx(min(1.0, len(p_values) * p))
    ranks = sorted(zip(p_values, corrected, strict=True))
    assert [one for _, one in ranks] == sorted(corrected)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order_of_the_tests(p_values: list[float], random: Random) -> None:
    order = list(range(len(p_values)))
    random.shuffle(order)
    whole = holm(p_values)
    assert holm([p_values[place] for place in order]) == [whole[place] for place in order]


def test_holm_as_in_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(ROWS, st.integers(2, 150))
def test_metrics_that_share_their_samples_have_the_intervals_that_each_has_alone(
    rows: list[tuple[float, float, float]], bootstrap: int
) -> None:
    """Those of another number of rows among them."""
    columns = [*zip(*rows, strict=True)]
    statistics = {str(place): means(column) for place, column in enumerate([*columns, columns[0] * 2])}
    together = all_scored(statistics, bootstrap)
    assert together == {name: scored(one, bootstrap) for name, one in statistics.items()}
    assert all_scored({}, bootstrap) == {}
