"""Two texts share a room as if they were shortened token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etude.tokenization.truncation import lengths_within


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 50))
def test_the_longer_text_loses_its_end(first: int, second: int, room: int) -> None:
    found = lengths_within(first, second, room)
    while first + second > room:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    assert found == (first, second)
