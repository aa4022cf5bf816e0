"""Scores of tags and spans: those of seqeval and scikit-learn, of sums over sentences."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from seqeval.scheme import IOB2, IOBES

from etude.errors import ConfigurationError
from etude.metrics.resampling import all_scored, paired_p_value
from etude.metrics.tagging import SchemeName, SpanF1, SpanPrecision, SpanRecall, TagAccuracy, TagF1

THEIRS = {"iob2": IOB2, "iobes": IOBES}
CLASSES = ["B-x", "B-y", "E-x", "I-x", "I-y", "O", "S-x", "S-y"]


@st.composite
def pairs(draw: st.DrawFn, letters: str) -> tuple[list[list[str]], list[list[str]]]:
    """Predicted and right tags of a few sentences."""
    tags = st.sampled_from(["O", *(f"{letter}-{kind}" for letter in letters for kind in "xy")])
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    outputs, labels = ([draw(st.lists(tags, min_size=size, max_size=size)) for size in sizes] for _ in range(2))
    return outputs, labels


def assert_seqevals(scheme: SchemeName, outputs: list[list[str]], labels: list[list[str]]) -> None:
    settings: dict[str, Any] = {"mode": "strict", "scheme": THEIRS[scheme], "zero_division": 0}
    for metric, name in ((SpanPrecision, "precision"), (SpanRecall, "recall"), (SpanF1, "f1")):
        ours = metric(scheme).statistics(outputs, labels, CLASSES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = getattr(seqeval.metrics, f"{name}_score")(labels, outputs, **settings)
        assert ours.whole == pytest.approx(float(theirs))


@given(pairs("BI"))
def test_span_scores_in_iob2_are_seqevals(rows: tuple[list[list[str]], list[list[str]]]) -> None:
    assert_seqevals("iob2", *rows)


@given(pairs("BIES"))
def test_span_scores_in_iobes_are_seqevals(rows: tuple[list[list[str]], list[list[str]]]) -> None:
    assert_seqevals("iobes", *rows)


def flat(rows: Sequence[Sequence[str]]) -> list[str]:
    return [tag for row in rows for tag in row]


@given(pairs("BI"))
def test_tag_scores_are_those_of_words(rows: tuple[list[list[str]], list[list[str]]]) -> None:
    outputs, labels = rows
    accuracy = TagAccuracy().statistics(outputs, labels, CLASSES)
    assert accuracy.whole == pytest.approx(sklearn.metrics.accuracy_score(flat(labels), flat(outputs)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sklearn.metrics.f1_score(flat(labels), flat(outputs), average="macro")
    assert TagF1().statistics(outputs, labels, CLASSES).whole == pytest.approx(float(theirs))


OUTPUTS = [["B-x", "I-x", "O"], ["O", "B-y"], ["O"], ["I-x", "O"]]
LABELS = [["B-x", "I-x", "O"], ["B-x", "B-y"], ["O"], ["B-x", "O"]]


def test_by_hand() -> None:
    metrics = {"precision": SpanPrecision("iob2"), "recall": SpanRecall("iob2"), "f1": SpanF1("iob2")}
    found = all_scored({name: metric.statistics(OUTPUTS, LABELS, CLASSES) for name, metric in metrics.items()}, 200)
    assert [found[name].value for name in metrics] == [1, 0.5, pytest.approx(2 / 3)]  # of 2 predicted and 4 labelled
    f1 = found["f1"]
    assert f1.low is not None and f1.high is not None and 0 <= f1.low < f1.value < f1.high <= 1
    assert f1.signature == "nrefs:1|bs:200|seed:12345|classes:8|scheme:iob2|mode:strict|average:micro"
    assert SpanF1("iob2", kind="y").statistics(OUTPUTS, LABELS, CLASSES).whole == 1
    assert TagAccuracy().statistics(OUTPUTS, LABELS, CLASSES).whole == 6 / 8


def test_a_sentence_has_scores_of_its_own_where_it_has_spans() -> None:
    alone = SpanF1("iob2").statistics(OUTPUTS, LABELS, CLASSES).alone
    assert alone is not None
    np.testing.assert_allclose(alone, [1, 2 / 3, np.nan, 0])


def test_two_taggers_are_compared_sentence_by_sentence() -> None:
    first, other = (SpanF1("iob2").statistics(rows, LABELS * 8, CLASSES) for rows in (LABELS * 8, OUTPUTS * 8))
    assert paired_p_value(first, first, 200) == 1
    assert paired_p_value(first, other, 200) < 0.05


def test_a_scheme_that_is_not_that_of_the_tags_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'NOUN' is none of iobes"):
        SpanF1("iobes").check(["O", "NOUN"])
    TagAccuracy().check(["O", "NOUN"])
