"""Spans of tags are those of seqeval, strictly and leniently, and what is repaired is as the scheme says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2 as THEIR_IOB2
from seqeval.scheme import IOBES as THEIR_IOBES
from seqeval.scheme import Entities

from etude.errors import ConfigurationError
from etude.metrics.tagging import IOB2, IOBES, SCHEMES, Span, TagScheme, lenient_spans

THEIRS = {"iob2": THEIR_IOB2, "iobes": THEIR_IOBES}


def tags_of(letters: str) -> st.SearchStrategy[list[str]]:
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("place", "work-of-art"))]
    return st.lists(st.sampled_from(tags), max_size=9)


def theirs(tags: list[str], scheme: TagScheme) -> list[tuple[int, int, str]]:
    (entities,) = Entities([tags], THEIRS[scheme.name]).entities
    return [(entity.start, entity.end, entity.tag) for entity in entities]


@given(tags_of("BI"))
def test_spans_in_iob2_are_seqevals(tags: list[str]) -> None:
    assert IOB2.spans(tags) == theirs(tags, IOB2)


@given(tags_of("BIES"))
def test_spans_in_iobes_are_seqevals(tags: list[str]) -> None:
    assert IOBES.spans(tags) == theirs(tags, IOBES)


@given(tags_of("BIES"))
def test_lenient_spans_are_seqevals(tags: list[str]) -> None:
    assert lenient_spans(tags) == [(start, last + 1, kind) for kind, start, last in get_entities(tags)]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@given(tags_of("BIES"))
def test_what_is_repaired_follows_the_scheme_and_has_the_lenient_spans(scheme: TagScheme, tags: list[str]) -> None:
    repaired = scheme.repaired(tags)
    assert scheme.spans(repaired) == lenient_spans(tags)
    assert scheme.repaired(repaired) == repaired
    assert scheme.broken(repaired) is None
    scheme.check(repaired)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@given(tags_of("BIES"))
def test_unbroken_tags_have_the_same_spans_however_they_are_read(scheme: TagScheme, tags: list[str]) -> None:
    place = scheme.broken(tags)
    if place is None:
        assert scheme.spans(tags) == lenient_spans(tags)
    else:
        assert scheme.repaired(tags)[:place] == tags[:place] and scheme.repaired(tags)[place] != tags[place]


def test_by_hand() -> None:
    tags = ["I-x", "O", "B-x", "I-y", "B-y", "I-y"]
    assert IOB2.spans(tags) == [Span(2, 3, "x"), Span(4, 6, "y")]
    assert IOB2.broken(tags) == 0
    assert IOB2.repaired(tags) == ["B-x", "O", "B-x", "B-y", "B-y", "I-y"]
    assert IOBES.repaired(tags) == ["S-x", "O", "S-x", "S-y", "B-y", "E-y"]


@pytest.mark.parametrize("tag", ["NOUN", "S-x", "B-", "-x", "", "b-x", "Bx"])
def test_a_tag_of_no_scheme_is_refused_by_name(tag: str) -> None:
    with pytest.raises(
        ConfigurationError, match=re.escape(f"the tag {tag!r} is none of iob2, whose tags are O, B-…, I-…")
    ):
        IOB2.check(["O", "B-x", tag])
