"""Scores of labels and numbers against their formulas, worked out here in plain Python."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from etude.errors import ConfigurationError
from etude.metrics.classification import Accuracy, ClassF1, Matthews
from etude.metrics.multilabel import LabelSetMatch, MultilabelF1
from etude.metrics.regression import MeanSquaredError, Pearson, Spearman

LABELS = [0] * 6 + [1] * 4 + [2] * 2
PREDICTIONS = [0, 0, 0, 0, 1, 2, 1, 1, 1, 0, 2, 1]
CLASSES = ("a", "b", "c")


def same(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-6)


def f1(predictions: list[int], labels: list[int], positive: int) -> float:
    right = sum(p == y == positive for p, y in zip(predictions, labels, strict=True))
    return 2 * right / (predictions.count(positive) + labels.count(positive))


def matthews(predictions: list[int], labels: list[int]) -> float:
    """As scikit-learn's `matthews_corrcoef`: (c s - Σ p t) / sqrt((s² - Σ p²) (s² - Σ t²))."""
    count = len(labels)
    right = sum(p == y for p, y in zip(predictions, labels, strict=True))
    given, true = ([values.count(k) for k in range(3)] for values in (predictions, labels))
    cross = sum(p * t for p, t in zip(given, true, strict=True))
    below = math.sqrt((count**2 - sum(p * p for p in given)) * (count**2 - sum(t * t for t in true)))
    return (right * count - cross) / below


def test_classes() -> None:
    rows = np.array(PREDICTIONS), np.array(LABELS), CLASSES
    each = [f1(PREDICTIONS, LABELS, k) for k in range(3)]
    weighted = (6 * each[0] + 4 * each[1] + 2 * each[2]) / 12
    assert Accuracy().statistics(*rows).whole == same(8 / 12)
    assert ClassF1().statistics(*rows).whole == same(sum(each) / 3)
    assert ClassF1(average="weighted").statistics(*rows).whole == same(weighted)
    assert ClassF1("b").statistics(*rows).whole == same(each[1])
    assert Matthews().statistics(*rows).whole == same(matthews(PREDICTIONS, LABELS))


def test_matthews_of_one_class_is_nothing() -> None:
    several, one = np.array([0, 1, 0, 1, 1]), np.zeros(5, np.int64)
    assert Matthews().statistics(one, several, ("a", "b")).whole == 0
    assert Matthews().statistics(several, one, ("a", "b")).whole == 0
    assert Matthews().statistics(several, 1 - several, ("a", "b")).whole == -1


def test_a_positive_class_must_be_there() -> None:
    with pytest.raises(
        ConfigurationError, match=r"task\.metrics: positive=1 is not a class of the data, which has a, b, c"
    ):
        ClassF1("1").check(CLASSES)


def test_several_classes() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]], bool)
    predictions = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]], bool)
    assert MultilabelF1("micro").statistics(predictions, labels).whole == same(2 * 4 / (5 + 5))
    assert MultilabelF1("macro").statistics(predictions, labels).whole == same((1 + 0 + 1) / 3)
    assert LabelSetMatch().statistics(predictions, labels).whole == 2 / 4
    assert MultilabelF1("micro").statistics(predictions, labels).signature == "nrefs:1|classes:3|average:micro"


def pearson(first: list[float], second: list[float]) -> float:
    means = [sum(values) / len(values) for values in (first, second)]
    pairs = [(a - means[0], b - means[1]) for a, b in zip(first, second, strict=True)]
    return sum(a * b for a, b in pairs) / math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))


def ranks(values: list[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    return [sum(other < value for other in values) + (1 + values.count(value)) / 2 for value in values]


def test_numbers() -> None:
    source = random.Random(5)
    labels = [source.choice([0.0, 1.0, 2.5, 4.0, 5.0]) for _ in range(40)]
    values = [label + source.gauss(0, 1.5) for label in labels]
    rows = np.array(values), np.array(labels)
    assert Pearson().statistics(*rows).whole == same(pearson(values, labels))
    assert Spearman().statistics(*rows).whole == same(pearson(ranks(values), ranks(labels)))
    errors = [(a - b) ** 2 for a, b in zip(values, labels, strict=True)]
    assert MeanSquaredError().statistics(*rows).whole == same(sum(errors) / 40)
    alone = MeanSquaredError().statistics(*rows).alone
    assert alone is not None and alone.tolist() == same(errors)


def test_correlations_with_a_constant_are_nothing() -> None:
    other = np.arange(5.0)
    for constant in (np.ones(5), np.full(5, 0.1)):  # whose mean is another number
        for metric in (Pearson(), Spearman()):
            assert metric.statistics(constant, other).whole == metric.statistics(other, constant).whole == 0


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e150])
def test_correlations_keep_their_digits_whatever_the_unit_and_the_offset(scale: float) -> None:
    values, labels = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 3.0, 3.0, 5.0])
    assert Pearson().statistics(values * scale, labels).whole == same(pearson(values.tolist(), labels.tolist()))
    assert Pearson().statistics(values + 2.0**40, labels).whole == same(pearson(values.tolist(), labels.tolist()))
