"""One answer of many windows: the best span once, and none where no answer is surer by more than the threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etude.tasks.answer_selection import merge_windows, null_margin, select_answer
from etude.types import Question

PASSAGE = "in the year 1066"
OFFSETS = np.array([[0, 2], [3, 6], [7, 11], [12, 16], [16, 16]])
QUESTION = Question("q", "when?", PASSAGE, OFFSETS)
WINDOWS = [
    {"null_score": 4.0, "spans": [(2, 3, 1.0), (3, 3, 6.0), (4, 4, 9.0)]},
    {"null_score": 2.0, "spans": [(3, 3, 5.0), (0, 1, 6.0)]},
]


def test_spans_of_all_windows_are_ranked_each_once_at_its_best() -> None:
    row = merge_windows(QUESTION, WINDOWS, 2)
    assert row["null_score"] == 2.0  # the lowest of the windows
    assert [(answer["text"], answer["score"]) for answer in row["answers"]] == [("in the", 6.0), ("1066", 6.0)]
    assert PASSAGE[row["answers"][1]["start"] : row["answers"][1]["end"]] == "1066"
    assert [answer["text"] for answer in merge_windows(QUESTION, WINDOWS, 9)["answers"]] == [
        "in the",
        "1066",
        "year 1066",
    ]


@pytest.mark.parametrize(("threshold", "text"), [(-3.9, "in the"), (-4.0, "in the"), (-4.1, "")])
def test_no_answer_wins_by_more_than_the_threshold(threshold: float, text: str) -> None:
    row = merge_windows(QUESTION, WINDOWS, 2)
    assert null_margin(row) == -4.0
    assert select_answer(row, threshold)["text"] == text


def test_without_a_span_there_is_no_answer_whatever_the_threshold() -> None:
    row = merge_windows(QUESTION, [{"null_score": 1.5, "spans": [(4, 4, 9.0)]}], 3)
    assert null_margin(row) == math.inf
    assert select_answer(row, 1e9) == {"text": "", "start": None, "end": None, "score": 1.5}
