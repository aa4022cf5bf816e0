"""Exact match and F1 by the definition of SQuAD 2.0's script, by hand and beside torchmetrics where that has a value."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import squad

from etude.metrics.question_answering import AnswerExactMatch, AnswerF1, best_null_threshold, normalised
from etude.metrics.text_metrics import TextMetric, text_scores

BY_HAND = [
    ("The  Eiffel-Tower!", ["eiffel tower", "EiffelTower"], 100, 100),  # a hyphen goes without leaving a space
    ("in the year 1887", ["1887"], 0, 100 * 2 * 1 / (3 + 1)),
    ("a man a plan", ["man plan canal", "an man"], 0, 100 * 2 * 2 / (2 + 3)),  # both words of 2 and of 3
    ("one two two", ["two two two one"], 0, 100 * 2 * 3 / (3 + 4)),
    ("", [""], 100, 100),
    ("", ["yes"], 0, 0),
    ("yes", [""], 0, 0),
    ("the", [""], 100, 100),  # nothing is left of it
    ("", ["the", "yes"], 0, 0),  # an answer of nothing but an article does not count
    ("no", ["yes", "no"], 100, 100),
    ("Ünited Kingdom", ["ünited kingdom"], 100, 100),
]


@pytest.mark.parametrize(("output", "references", "exact", "f1"), BY_HAND)
def test_by_hand(output: str, references: list[str], exact: float, f1: float) -> None:
    assert AnswerExactMatch().value(output, references) == exact
    assert AnswerF1().value(output, references) == pytest.approx(f1)


def test_normalised() -> None:
    assert normalised("  The U.S.\tand\nAn   'other' theory  ") == "us and other theory"


WORDS = ["the", "a", "sun", "Sun.", "moon", "an", "(star)", "of", "don't"]


def test_equal_to_torchmetrics_where_every_question_has_an_answer() -> None:
    source = random.Random(3)
    rows = [
        (
            " ".join(source.choices(WORDS, k=source.randint(0, 4))),
            [" ".join(["sun", *source.choices(WORDS, k=source.randint(0, 4))]) for _ in range(source.randint(1, 3))],
        )
        for _ in range(200)
    ]
    metrics: dict[str, TextMetric] = {"exact_match": AnswerExactMatch(), "f1": AnswerF1()}
    mine = text_scores(metrics, [row[0] for row in rows], [row[1] for row in rows], bootstrap=50)
    theirs = squad(
        [{"prediction_text": output, "id": str(i)} for i, (output, _) in enumerate(rows)],
        [
            {"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": str(i)}
            for i, (_, texts) in enumerate(rows)
        ],
    )
    for name in metrics:
        score = mine[name]
        assert score.value == pytest.approx(float(theirs[name]), abs=1e-4)
        assert score.low is not None and score.high is not None and score.low < score.value < score.high
        assert mine[f"{name}_has_answer"].value == score.value
        assert f"{name}_no_answer" not in mine


def test_questions_with_and_without_an_answer_apart() -> None:
    metrics: dict[str, TextMetric] = {"f1": AnswerF1()}
    found = text_scores(metrics, ["sun", "", "moon", ""], [["sun"], [""], [""], ["sun"]], bootstrap=20)
    assert {name: score.value for name, score in found.items()} == {
        "f1": 50,
        "f1_has_answer": 50,
        "f1_no_answer": 50,
    }
    statistics = found["f1_no_answer"].statistics
    assert statistics is not None
    np.testing.assert_array_equal(statistics.alone, [np.nan, 100, 0, np.nan])


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 33.25, 100]), st.sampled_from([0, 100])), min_size=1))
def test_no_threshold_is_better_than_the_chosen_one(rows: list[tuple[int, float, float]]) -> None:
    differences, answered, silent = (list(map(float, column)) for column in zip(*rows, strict=True))

    def total(threshold: float) -> float:
        columns = zip(differences, answered, silent, strict=True)
        return sum(one if difference <= threshold else other for difference, one, other in columns)

    known = sorted(set(differences))
    tried = [-math.inf, *(sum(pair) / 2 for pair in pairwise(known)), math.inf]
    chosen = best_null_threshold(differences, answered, silent)
    assert total(chosen) == max(map(total, tried))
    assert chosen == max(threshold for threshold in tried if total(threshold) == total(chosen))
