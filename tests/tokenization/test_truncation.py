"""Two texts share a room as if they were shortened token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etude.tokenization.truncation import cut_within, joined, lengths_within


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 50))
def test_the_longer_text_loses_its_end(first: int, second: int, room: int) -> None:
    found = lengths_within(first, second, room)
    while first + second > room:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    assert found == (first, second)


@given(st.lists(st.lists(st.integers(3, 9), max_size=20), min_size=1, max_size=2), st.integers(2, 30))
def test_a_row_has_the_beginning_of_each_text(texts: list[list[int]], room: int) -> None:
    cut = cut_within(texts, room)
    row = joined(cut, bos=1, eos=2)
    assert len(row) == 1 + len(texts) + min(room, sum(map(len, texts)))
    assert [row[0], row[-1], row.count(2)] == [1, 2, len(texts)]
    assert all(list(text[: len(kept)]) == list(kept) for text, kept in zip(texts, cut, strict=True))
