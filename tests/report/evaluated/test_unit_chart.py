"""Probabilities of an evaluation: rows become arrays, and arrays charts that say their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.report.evaluated.judged_rows import JudgedClasses, JudgedLabels, judged_rows
from etude.report.evaluated.unit_chart import CURVES, unit_charts
from etude.untrusted import BrokenFileError

CALIBRATED = {"calibration": {"bins": 15, "error": 0.1, "temperature": 2.0}}
DECIDED = {"confusion": {"a": {"found": 1, "wrongly found": 0, "missed": 2}}}


def rows_in(run: Path, *rows: Any) -> Path:
    (run / "evaluations").mkdir(exist_ok=True)
    (run / "evaluations" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_rows_of_classes_have_logits_and_those_of_labels_probabilities(tmp_path: Path) -> None:
    run = rows_in(tmp_path, {"id": 0, "label": 1, "logits": [0.0, np.log(3)], "scores": {}})
    classes = judged_rows(run / "evaluations" / "test.jsonl", CALIBRATED)
    assert isinstance(classes, JudgedClasses)
    assert classes.probabilities()[0].tolist() == pytest.approx([0.25, 0.75])
    assert classes.probabilities(2.0)[0, 1] == pytest.approx(3**0.5 / (1 + 3**0.5))
    rows_in(tmp_path, {"id": 0, "labels": [2], "probabilities": [0.1, 0.2, 0.3]})
    labels = judged_rows(run / "evaluations" / "test.jsonl", DECIDED)
    assert isinstance(labels, JudgedLabels) and labels.labels.tolist() == [[False, False, True]]


def test_other_tasks_and_rows_that_were_not_kept_have_none(tmp_path: Path) -> None:
    assert judged_rows(tmp_path / "evaluations" / "test.jsonl", CALIBRATED) is None
    assert judged_rows(rows_in(tmp_path, {"id": 0, "output": "x"}) / "evaluations" / "test.jsonl", {}) is None
    assert judged_rows(rows_in(tmp_path) / "evaluations" / "test.jsonl", CALIBRATED) is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"label": 1}, "logits"),
        ({"label": 5, "logits": [0.0, 1.0]}, "label 5 is none of 2 classes"),
        ({"label": -1, "logits": [0.0, 1.0]}, "label -1 is none"),
        ({"label": 0, "logits": [0.0, 1.0, 2.0]}, "2 finite numbers"),
        ({"label": 0, "logits": ["nan", 1.0]}, "float"),
    ],
)
def test_a_row_of_another_form_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    run = rows_in(tmp_path, {"id": 0, "label": 0, "logits": [1.0, 0.0]}, {"id": 1, **row})
    with pytest.raises(BrokenFileError, match=rf"test\.jsonl, line 2.*{problem}"):
        judged_rows(run / "evaluations" / "test.jsonl", CALIBRATED)


def test_two_classes_have_both_charts_and_more_have_reliability() -> None:
    random = np.random.default_rng(5)
    two = JudgedClasses(random.normal(size=(90, 2)), random.integers(0, 2, 90), 1.5)
    reliability, precision = unit_charts(two, ["no", "yes"])
    assert [curve.name for curve in reliability.curves] == ["as predicted", "at the temperature"]
    assert sum(int(row[2]) for row in reliability.rows if row[0] == "as predicted") == 90
    assert {str(row[0]) for row in precision.rows} == {"no", "yes"}
    (only,) = unit_charts(JudgedClasses(random.normal(size=(9, 3)), random.integers(0, 3, 9), None), ["a", "b", "c"])
    assert only.title == "Reliability" and len(only.curves) == 1


def test_of_many_classes_the_worst_are_drawn_and_all_are_in_the_table() -> None:
    labels = np.eye(12, dtype=bool)[np.arange(60) % 12]
    labels[:, 11] = False  # does not occur
    strength = np.linspace(0.9, 0.1, 12)  # the last ones are told apart worst
    noise = np.random.default_rng(2).random((60, 12))
    judged = JudgedLabels(strength * labels + (1 - strength) * noise, labels)
    (chart,) = unit_charts(judged, [f"c{number}" for number in range(12)])
    assert len(chart.curves) == CURVES and chart.curves[0].name.startswith("all decisions (")
    assert chart.curves[1].name.startswith("c10 (") and len(chart.rows) == 1 + 11
    assert "Of 1 more" in chart.note and "3 worst of 11" in chart.note
    point = chart.curves[1].points[0].told
    assert point.startswith("c10: precision ") and "recall" in point


def test_where_nothing_is_positive_there_is_no_chart() -> None:
    assert unit_charts(JudgedLabels(np.full((3, 2), 0.5), np.zeros((3, 2), bool)), ["a", "b"]) == []
