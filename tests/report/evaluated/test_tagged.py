"""Marked sentences: every word is shown once, kinds are told apart by letters, and a broken file breaks nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.report.evaluated.tagged import KindScores, TextPart, beginnings, kind_scores, marked_sentences
from etude.report.templates import environment

SENTENCE = {
    "words": ["Ann", "Lee", "left", "Rome", "."],
    "labels": [[0, 2, "person"], [3, 4, "place"]],
    "predictions": [[0, 1, "person"], [3, 4, "place"]],
}


def test_what_is_wrong_is_told_on_its_side() -> None:
    shown = marked_sentences([SENTENCE])
    assert shown.kinds == [("person", "PE", 0), ("place", "PL", 1)]
    ((labels, predictions),) = shown.rows
    assert labels == [
        TextPart("Ann Lee", "PE", "person", 0, "missed"),
        TextPart("left"),
        TextPart("Rome", "PL", "place", 1),
        TextPart("."),
    ]
    assert predictions[0] == TextPart("Ann", "PE", "person", 0, "wrong") and predictions[1].text == "Lee left"


MARKS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["a", "ab", "b", ""])), max_size=6)


@given(st.lists(st.sampled_from("xyz"), max_size=7), MARKS, MARKS)
def test_every_word_is_shown_once_whatever_the_marks(
    words: list[str], labels: list[tuple[int, int, str]], predictions: list[tuple[int, int, str]]
) -> None:
    ((first, second),) = marked_sentences([{"words": words, "labels": labels, "predictions": predictions}]).rows
    for parts in (first, second):
        assert " ".join(part.text for part in parts).split() == words


@given(st.lists(st.text(st.sampled_from("abC-"), min_size=1, max_size=4), unique_by=str.upper, max_size=6))
def test_no_two_kinds_have_the_same_letters(kinds: list[str]) -> None:
    shown = beginnings(kinds)
    assert len(set(shown.values())) == len(kinds)
    assert all(kind.upper().startswith(letters) for kind, letters in shown.items())


def test_scores_of_kinds() -> None:
    counts = {"labelled": 4, "predicted": 2, "right": 1}
    first, other = kind_scores({"x": counts, "y": {}})
    assert tuple(first) == ("x", 4, 2, 1, 0.5, 0.25, pytest.approx(1 / 3))
    assert other == KindScores("y", 0, 0, 0, 0.0, 0.0, 0.0)


def test_hostile_words_and_kinds_are_text() -> None:
    hostile = {"words": ["<script>", '"on'], "labels": [[0, 1, '"><b>']], "predictions": []}
    source = '{% from "tagged.html.jinja" import tagged_figure %}{{ tagged_figure(tagged) }}'
    page = environment().from_string(source).render(tagged=[hostile])
    assert "<script>" not in page and "<b>" not in page and "&lt;script&gt;" in page
    assert 'title="&#34;&gt;&lt;b&gt;, missed"' in page
