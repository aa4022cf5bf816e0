from __future__ import annotations

import numpy as np
import pytest

from etude.metrics.classification import Accuracy, ClassF1, ClassMetric, Matthews
from etude.types import IGNORED

# Rows by (label, prediction): (0, 0) three times, (0, 1) twice, (1, 1) five times, (2, 0) once; class 3 does not occur.
LABELS = np.array([0] * 5 + [1] * 5 + [2])
PREDICTIONS = np.array([0, 0, 0, 1, 1] + [1] * 5 + [0])
CLASSES = ("a", "b", "c", "d")
METRICS = (Accuracy(), ClassF1(), ClassF1(average="weighted"), ClassF1("a"), Matthews())


def value(metric: ClassMetric, predictions: np.ndarray, labels: np.ndarray) -> float:
    return metric.statistics(predictions, labels, CLASSES).whole


def test_worked_by_hand() -> None:
    assert value(Accuracy(), PREDICTIONS, LABELS) == 8 / 11
    # F1 = 2 · right / (of this class + given this class)
    each = [2 * 3 / (5 + 4), 2 * 5 / (5 + 7), 0.0]
    assert value(ClassF1(), PREDICTIONS, LABELS) == pytest.approx(sum(each) / 3, abs=1e-6)
    assert value(ClassF1("b"), PREDICTIONS, LABELS) == pytest.approx(each[1], abs=1e-6)
    assert value(ClassF1("d"), PREDICTIONS, LABELS) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_ignored_rows_do_not_count(metric: ClassMetric) -> None:
    labels = np.concatenate([LABELS, np.full(7, IGNORED)])
    predictions = np.concatenate([PREDICTIONS, np.arange(7) % 4])
    assert value(metric, predictions, labels) == value(metric, PREDICTIONS, LABELS)
    nothing = metric.statistics(PREDICTIONS, np.full(11, IGNORED), CLASSES)
    assert nothing.whole == 0
    assert nothing.alone is None or np.isnan(nothing.alone).all()


def test_rows_are_right_or_wrong_alone_and_have_no_f1() -> None:
    alone = Accuracy().statistics(PREDICTIONS, LABELS, CLASSES).alone
    assert alone is not None and alone.tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0]
    assert all(metric.statistics(PREDICTIONS, LABELS, CLASSES).alone is None for metric in METRICS[1:])


def test_the_signature_says_how() -> None:
    signatures = [metric.statistics(PREDICTIONS, LABELS, CLASSES).signature for metric in METRICS]
    assert signatures == [
        "nrefs:1|classes:4",
        "nrefs:1|classes:4|average:macro",
        "nrefs:1|classes:4|average:weighted",
        "nrefs:1|classes:4|positive:a",
        "nrefs:1|classes:4",
    ]
