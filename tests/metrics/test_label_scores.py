"""Scores of labels and numbers against their formulas, worked out here in plain Python."""

from __future__ import annotations

import math
import random

import pytest
import torch

from etude.errors import ConfigurationError
from etude.metrics.classification import F1, Accuracy, Matthews
from etude.metrics.multilabel import ExactMatch, MultilabelF1
from etude.metrics.regression import MeanSquaredError, Pearson, Spearman

LABELS = [0] * 6 + [1] * 4 + [2] * 2
PREDICTIONS = [0, 0, 0, 0, 1, 2, 1, 1, 1, 0, 2, 1]
CLASSES = ("a", "b", "c")


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
    rows = torch.tensor(PREDICTIONS), torch.tensor(LABELS), CLASSES
    each = [f1(PREDICTIONS, LABELS, k) for k in range(3)]
    assert Accuracy().score(*rows) == pytest.approx(8 / 12)
    assert F1().score(*rows) == pytest.approx(sum(each) / 3)
    assert F1(average="weighted").score(*rows) == pytest.approx((6 * each[0] + 4 * each[1] + 2 * each[2]) / 12)
    assert F1("b").score(*rows) == pytest.approx(each[1])
    assert Matthews().score(*rows) == pytest.approx(matthews(PREDICTIONS, LABELS))


def test_matthews_of_one_class_is_nothing() -> None:
    assert Matthews().score(torch.zeros(5, dtype=torch.long), torch.tensor([0, 1, 0, 1, 1]), ("a", "b")) == 0


def test_a_positive_class_must_be_there() -> None:
    with pytest.raises(
        ConfigurationError, match=r"task\.metrics: positive=1 is no class of the data, which has a, b, c"
    ):
        F1("1").check(CLASSES)


def test_several_classes() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    predictions = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
    assert MultilabelF1("micro").score(predictions, labels) == pytest.approx(2 * 4 / (5 + 5))
    assert MultilabelF1("macro").score(predictions, labels) == pytest.approx((1 + 0 + 1) / 3)
    assert ExactMatch().score(predictions, labels) == pytest.approx(2 / 4)


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
    rows = torch.tensor(values, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    assert Pearson().score(*rows) == pytest.approx(pearson(values, labels), abs=1e-7)
    assert Spearman().score(*rows) == pytest.approx(pearson(ranks(values), ranks(labels)), abs=1e-6)
    errors = [(a - b) ** 2 for a, b in zip(values, labels, strict=True)]
    assert MeanSquaredError().score(*rows) == pytest.approx(sum(errors) / 40)


def test_correlations_with_a_constant_are_nothing() -> None:
    constant, other = torch.ones(5, dtype=torch.float64), torch.arange(5, dtype=torch.float64)
    for metric in (Pearson(), Spearman()):
        assert metric.score(constant, other) == metric.score(other, constant) == 0
