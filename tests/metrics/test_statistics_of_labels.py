"""Laws of what scores of labels and numbers are computed from: values, intervals and p-values, beside torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional import mean_squared_error, pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
    multilabel_exact_match,
    multilabel_f1_score,
)

from etude.metrics.classification import Accuracy, ClassF1, ClassMetric, Matthews
from etude.metrics.multilabel import LabelSetMatch, MultilabelF1, MultilabelMetric
from etude.metrics.regression import MeanSquaredError, NumberMetric, Pearson, Spearman
from etude.metrics.resampling import intervals, paired_p_value, scored
from etude.metrics.score import Statistics

CLASSES = ("a", "b", "c")
SINGLE = 2e-6
"""torchmetrics divides counts and ranks in single precision."""

Pair = tuple[np.ndarray, np.ndarray]
Make = Callable[[np.ndarray, np.ndarray], Statistics]


def of_classes(metric: ClassMetric) -> Make:
    return lambda predictions, labels: metric.statistics(predictions, labels, CLASSES)


METRICS: dict[str, tuple[str, Make]] = {
    "accuracy": ("classes", of_classes(Accuracy())),
    "macro_f1": ("classes", of_classes(ClassF1())),
    "weighted_f1": ("classes", of_classes(ClassF1(average="weighted"))),
    "f1_of_b": ("classes", of_classes(ClassF1("b"))),
    "matthews": ("classes", of_classes(Matthews())),
    "multilabel_micro_f1": ("several", MultilabelF1("micro").statistics),
    "multilabel_macro_f1": ("several", MultilabelF1("macro").statistics),
    "multilabel_exact_match": ("several", LabelSetMatch().statistics),
    "pearson": ("numbers", Pearson().statistics),
    "spearman": ("numbers", Spearman().statistics),
    "mean_squared_error": ("numbers", MeanSquaredError().statistics),
}


def system(kind: str, rows: int, wrong: float, seed: int) -> Pair:
    """Predictions of which a share is drawn anew, and labels that do not depend on the seed."""
    source = np.random.default_rng(0)
    noise = np.random.default_rng(seed)
    if kind == "numbers":
        numbers = source.integers(0, 11, rows) / 2
        return numbers + noise.normal(0, 4 * wrong, rows), numbers
    shape, many = ((rows, 3), 2) if kind == "several" else ((rows,), 3)
    labels = source.integers(0, many, shape)
    predictions = np.where(noise.random(shape) < wrong, noise.integers(0, many, shape), labels)
    return (predictions > 0, labels > 0) if kind == "several" else (predictions, labels)


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    kind, make = METRICS[name]
    predictions, labels = system(kind, 50, 0.4, 1)
    order = np.random.default_rng(2).permutation(50)
    straight, shuffled = make(predictions, labels), make(predictions[order], labels[order])
    assert shuffled.whole == pytest.approx(straight.whole, abs=1e-12)
    times = np.random.default_rng(3).integers(0, 4, (3, 50))
    assert shuffled.resampled(times[:, order]) == pytest.approx(straight.resampled(times), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_sample_has_the_score_of_its_rows(name: str) -> None:
    kind, make = METRICS[name]
    (first, labels), (second, _) = (system(kind, 40, wrong, seed) for wrong, seed in ((0.3, 1), (0.6, 2)))
    one, other = make(first, labels), make(second, labels)
    times = np.random.default_rng(4).integers(0, 3, (3, 40))
    for some, found in zip(times, one.resampled(times), strict=True):
        rows = np.repeat(np.arange(40), some)
        assert found == pytest.approx(make(first[rows], labels[rows]).whole, abs=1e-12)
    if name in ("pearson", "spearman"):  # see below
        return
    kept = np.random.default_rng(5).integers(2, size=(3, 40), dtype=bool)
    for stays, (found, swapped) in zip(kept, one.exchanged(other, kept), strict=True):
        stays = stays.reshape(-1, *[1] * (first.ndim - 1))
        assert found == pytest.approx(make(np.where(stays, first, second), labels).whole, abs=1e-12)
        assert swapped == pytest.approx(make(np.where(stays, second, first), labels).whole, abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_difference_of_correlations_does_not_depend_on_the_unit_of_either_system(name: str) -> None:
    _, make = METRICS[name]
    (first, labels), (second, _) = (system("numbers", 60, wrong, seed) for wrong, seed in ((0.3, 1), (0.4, 2)))
    p = paired_p_value(make(first, labels), make(second, labels), trials=200)
    assert 0.01 < p < 0.99
    assert paired_p_value(make(first * 1000 - 7, labels), make(second, labels), trials=200) == p


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_holds_the_value_narrows_with_more_rows_and_stays_in_bounds(name: str) -> None:
    kind, make = METRICS[name]
    widths = []
    for rows in (60, 960):
        score = scored(make(*system(kind, rows, 0.3, 7)), 300)
        assert score.low is not None and score.high is not None
        assert score.low < score.value < score.high
        widths.append(score.high - score.low)
    assert widths[1] / widths[0] == pytest.approx(1 / 4, rel=0.5)
    predictions, labels = system(kind, 30, 0.0, 1)
    best = make(predictions, labels)
    assert intervals([best], 100)[0] == pytest.approx((best.whole, best.whole), abs=SINGLE)
    predictions[0] = predictions[1] if (predictions[0] != predictions[1]).any() else predictions[2]
    almost = make(predictions, labels)
    ((low, high),) = intervals([almost], 200)
    assert almost.bounds[0] <= low <= almost.whole <= high <= almost.bounds[1]
    assert math.isfinite(almost.bounds[0]) and type(low) is type(high) is float


@pytest.mark.parametrize("name", METRICS)
def test_equal_outputs_differ_by_chance_and_much_better_ones_do_not(name: str) -> None:
    kind, make = METRICS[name]
    bad, good = (make(*system(kind, 300, wrong, 7)) for wrong in (0.6, 0.2))
    assert paired_p_value(good, good, trials=100) == 1
    assert paired_p_value(good, bad, trials=199) == 1 / 200
    one, other = (make(*system(kind, 300, 0.3, seed)) for seed in (8, 9))
    p = paired_p_value(one, other, trials=199)
    assert 0.01 < p <= 1
    assert paired_p_value(other, one, trials=199) == p


@pytest.mark.parametrize("name", METRICS)
def test_the_signature_says_the_resampling_between_references_and_the_rest(name: str) -> None:
    kind, make = METRICS[name]
    statistics = make(*system(kind, 20, 0.3, 1))
    _, *rest = statistics.signature.split("|")
    assert scored(statistics).signature == statistics.signature
    assert scored(statistics, 10).signature == "|".join(["nrefs:1", "bs:10", "seed:12345", *rest])


@st.composite
def class_rows(draw: Any) -> Pair:
    count = draw(st.integers(1, 40))
    classes = arrays(np.int64, count, elements=st.integers(0, 2))
    return draw(classes), draw(classes)


@given(class_rows())
def test_scores_of_classes_are_those_of_torchmetrics(rows: Pair) -> None:
    known = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
    expected: list[tuple[ClassMetric, Any]] = [
        (Accuracy(), multiclass_accuracy(*known, 3, average="micro")),
        (ClassF1(), multiclass_f1_score(*known, 3, average="macro")),
        (ClassF1(average="weighted"), multiclass_f1_score(*known, 3, average="weighted")),
        (ClassF1("b"), multiclass_f1_score(*known, 3, average="none")[1]),
    ]
    if min(len(np.unique(column)) for column in rows) > 1:
        expected.append((Matthews(), multiclass_matthews_corrcoef(*known, 3)))
    for metric, value in expected:
        assert metric.statistics(*rows, CLASSES).whole == pytest.approx(float(value), abs=SINGLE)


@st.composite
def sets_of_classes(draw: Any) -> Pair:
    shape = (draw(st.integers(1, 30)), draw(st.integers(2, 4)))
    return draw(arrays(np.bool_, shape)), draw(arrays(np.bool_, shape))


@given(sets_of_classes())
def test_scores_of_several_classes_are_those_of_torchmetrics(rows: Pair) -> None:
    known = torch.from_numpy(rows[0]).int(), torch.from_numpy(rows[1]).int()
    classes = rows[0].shape[1]
    expected: list[tuple[MultilabelMetric, Any]] = [
        (MultilabelF1("micro"), multilabel_f1_score(*known, classes, average="micro")),
        (MultilabelF1("macro"), multilabel_f1_score(*known, classes, average="macro")),
        (LabelSetMatch(), multilabel_exact_match(*known, classes)),
    ]
    for metric, value in expected:
        assert metric.statistics(*rows).whole == pytest.approx(float(value), abs=SINGLE)


@st.composite
def number_rows(draw: Any) -> Pair:
    count = draw(st.integers(2, 40))
    numbers = arrays(np.float64, count, elements=st.integers(-40, 40).map(lambda number: number / 8))
    return draw(numbers), draw(numbers)


@given(number_rows())
def test_scores_of_numbers_are_those_of_torchmetrics(rows: Pair) -> None:
    known = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
    expected: list[tuple[NumberMetric, Any, float]] = [(MeanSquaredError(), mean_squared_error(*known), 1e-9)]
    if all(len(np.unique(column)) > 1 for column in rows):
        expected += [(Pearson(), pearson_corrcoef(*known), 1e-9), (Spearman(), spearman_corrcoef(*known), 1e-5)]
    for metric, value, tolerance in expected:
        assert metric.statistics(*rows).whole == pytest.approx(float(value), abs=tolerance)
