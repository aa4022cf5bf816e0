"""Windows over a passage: each token is in one, none is too long, and an answer is found where one has all of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import ConfigurationError
from etude.tokenization.windows import Windows


@st.composite
def cases(draw: st.DrawFn) -> tuple[Windows, int, int]:
    """Windows, the tokens of a question and those of a passage."""
    longest = draw(st.integers(1, 9))
    room = draw(st.integers(1, 20))
    windows = Windows(3 + longest + room, draw(st.integers(1, room)), longest)
    return windows, draw(st.integers(0, 15)), draw(st.integers(0, 70))


def made(windows: Windows, asked: int, read: int) -> list[tuple[list[int], int, int]]:
    """The ids of each window, where the passage begins in it, and the token of the passage that it starts at."""
    question, passage = np.arange(1000, 1000 + asked), np.arange(read)
    (number,) = windows.numbers(np.array([asked]), np.array([read]))
    starts = [k * windows.stride for k in range(number)]
    found = [windows.window(question, passage, start, bos=-1, eos=-2) for start in starts]
    return [(ids.tolist(), front, start) for (ids, front), start in zip(found, starts, strict=True)]


@given(cases())
def test_every_token_is_in_a_window_and_none_is_too_long(case: tuple[Windows, int, int]) -> None:
    windows, asked, read = case
    found = made(windows, asked, read)
    covered = set[int]()
    for ids, front, start in found:
        assert len(ids) <= windows.max_length
        question = list(range(1000, 1000 + min(asked, windows.max_question)))
        part = ids[front:-1]
        assert ids == [-1, *question, -2, *part, -2]
        assert part == list(range(start, start + len(part)))
        covered |= set(part)
    assert covered == set(range(read))
    # As few as there can be: the last but one does not reach the end.
    assert len(found) == 1 or read - 1 not in found[-2][0][found[-2][1] :]


@given(cases(), st.data())
def test_a_span_is_found_if_some_window_has_all_of_it(case: tuple[Windows, int, int], data: st.DataObject) -> None:
    windows, asked, read = case
    first = data.draw(st.integers(0, max(0, read - 1)))
    span = np.array([[first, data.draw(st.integers(first, max(first, read - 1)))]]) if read else np.array([[-1, -1]])
    (found,) = windows.holding(np.array([asked]), np.array([read]), span)
    whole = [
        set(range(span[0, 0], span[0, 1] + 1)) <= set(ids[front:-1]) for ids, front, _ in made(windows, asked, read)
    ]
    if read == 0 or not any(whole):
        assert found == -1
    else:
        assert whole[found]


@pytest.mark.parametrize(("stride", "says"), [(18, "leaves out tokens of the passage"), (0, "at least 1")])
def test_a_stride_that_leaves_something_out_is_refused(stride: int, says: str) -> None:
    Windows(30, 17, 10)
    with pytest.raises(ConfigurationError, match=says):
        Windows(30, stride, 10)
