"""Samples: the parts of a text are the text, and what differs is marked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.metrics.text_differences import WORDS, Segment, differences, marked
from etude.report.samples import ShownSamples

TEXT = st.text(st.sampled_from("ab \u00e4.,\n\u4e2d\u6587\u0301\u202e\U0001f600<&"), max_size=40)


def joined(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


@given(TEXT, TEXT)
def test_the_parts_are_the_texts_and_the_same_parts_are_equal(reference: str, output: str) -> None:
    left, right = differences(reference, output)
    assert (joined(left), joined(right)) == (reference, output)
    assert {segment.kind for segment in left} <= {"same", "missing"} and {segment.kind for segment in right} <= {
        "same",
        "extra",
    }
    same = [joined([one for one in side if one.kind == "same"]) for side in (left, right)]
    assert same[0] == same[1]


def test_words_are_marked_not_letters_but_in_scripts_without_spaces() -> None:
    left, right = differences("the red house", "the blue house")
    assert left == [Segment("the ", "same"), Segment("red", "missing"), Segment(" house", "same")]
    assert right[1] == Segment("blue", "extra")
    assert differences("\u4e2d\u6587", "\u4e2d\u6587\u5b57")[1] == [
        Segment("\u4e2d\u6587", "same"),
        Segment("\u5b57", "extra"),
    ]


def test_differences_in_one_text_hold_both() -> None:
    assert marked("the red house", "the blue house") == "the [-red-]{+blue+} house"
    assert marked("a b", "a b") == "a b"
    assert marked("", "new") == "{+new+}"
    assert marked("a", "") == "[-a-]"
    long = "a " * WORDS
    assert marked(long, long + "b") == long + "b"


def test_texts_without_end_are_shown_unmarked_and_at_once() -> None:
    long = "a " * (WORDS + 1)
    assert differences(long, long + "b") == ([Segment(long, "same")], [Segment(long + "b", "same")])


def test_the_farthest_from_its_reference_comes_first_and_equal_texts_have_100() -> None:
    rows = [
        {"reference": "a house", "output": "a house"},
        {"reference": "", "output": ""},
        {"reference": "a tree", "output": "stone"},
    ]
    shown = ShownSamples.of(3, rows)
    assert joined(shown.rows[0]["output"]) == "stone"
    assert shown.scores[1:] == [100.0, 100.0] and shown.scores[0] < 50


@pytest.mark.parametrize(("made", "wanted"), [("prediction", "label"), ("predictions", "labels")])
def test_wrong_labels_come_first_and_have_no_score(made: str, wanted: str) -> None:
    rows = [{"text": "a", wanted: "good", made: "good"}, {"text": "b", wanted: "good", made: "bad"}]
    shown = ShownSamples.of(3, rows)
    assert [joined(row["text"]) for row in shown.rows] == ["b", "a"] and shown.scores == []


def test_samples_without_a_reference_stay_in_their_order() -> None:
    shown = ShownSamples.of(3, [{"text": "b", "continued": "b c"}, {"text": "a", "continued": "a d"}])
    assert [joined(row["continued"]) for row in shown.rows] == ["b c", "a d"] and shown.columns == ["text", "continued"]
