"""Words of two sentences, the links between them, and how wrong they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.metrics.word_alignment import (
    Gold,
    Links,
    align,
    alignment_error_rate,
    by_words,
    diagonal,
    word_of_each,
    words,
)

LINKS = st.frozensets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Delete all files?", ["Delete", "all", "files", "?"]),
        ("Drag-and-drop doesn’t “work”…", ["Drag-and-drop", "doesn’t", "“", "work", "”", "…"]),
        ("  a_b  5 % ", ["a_b", "5", "%"]),
        ("", []),
    ],
)
def test_words_and_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_each_piece_has_its_word() -> None:
    pieces = ["Dat", "eien", " lö", "", "schen", " ", "?", "", " !"]
    assert words("".join(pieces)) == ["Dateien", "löschen", "?", "!"]
    assert word_of_each(pieces) == [0, 0, 1, -1, 1, -1, 2, -1, 3]


@given(st.lists(st.text("ab ?", min_size=0, max_size=3), max_size=8))
def test_words_are_taken_in_order(pieces: list[str]) -> None:
    owners = [number for number in word_of_each(pieces) if number >= 0]
    assert owners == sorted(owners)
    assert all(number < len(words("".join(pieces))) for number in owners)


def test_weights_of_words_are_sums_over_the_source_and_means_over_the_target() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.0, 1.0]])
    found = by_words(weights, targets=[0, 0, -1], sources=[0, 0, 1, -1])
    torch.testing.assert_close(found, torch.tensor([[0.45, 0.45]]))
    assert by_words(weights, [-1, -1, -1], [0, 0, 1, -1]).shape == (0, 2)


def test_links_are_of_the_most_attended_word_and_symmetric_ones_of_both() -> None:
    weights = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    assert align(weights) == {(0, 0), (0, 1), (1, 2)}
    assert align(weights, symmetric=True) == {(0, 0), (1, 2)}
    assert align(torch.zeros(0, 3)) == align(torch.zeros(3, 0)) == frozenset()
    assert diagonal(2, 3) == {(0, 0), (0, 1), (1, 2)}
    assert diagonal(0, 2) == frozenset()


def test_the_error_rate_by_hand() -> None:
    gold = Gold(sure=frozenset({(0, 0), (1, 1)}), possible=frozenset({(0, 0), (1, 1), (2, 1)}))
    # |A ∩ S| = 1, |A ∩ P| = 2, |A| = 3, |S| = 2
    assert alignment_error_rate([frozenset({(0, 0), (2, 1), (2, 2)})], [gold]) == pytest.approx(1 - 3 / 5)
    assert math.isnan(alignment_error_rate([], []))


@given(st.lists(st.tuples(LINKS, LINKS, LINKS), min_size=1, max_size=4))
def test_the_error_rate_is_between_nothing_and_all(sentences: list[tuple[Links, Links, Links]]) -> None:
    gold = [Gold(sure, sure | possible) for _, sure, possible in sentences]
    rate = alignment_error_rate([found for found, _, _ in sentences], gold)
    assert math.isnan(rate) or 0 <= rate <= 1
    if any(sure for _, sure, _ in sentences):
        assert alignment_error_rate([sure for sure, _ in gold], gold) == 0
        # A possible link, added, costs nothing.
        assert alignment_error_rate([possible for _, possible in gold], gold) == 0
