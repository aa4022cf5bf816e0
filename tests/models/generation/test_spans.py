"""The best spans are those of a search through all of them, whatever the padding."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.models.generation.answer_spans import best_spans


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 9),
    longest=st.integers(1, 6),
    count=st.integers(1, 7),
    pad=st.integers(0, 4),
)
def test_as_a_search_through_all_spans(seed: int, length: int, longest: int, count: int, pad: int) -> None:
    random = torch.Generator().manual_seed(seed)
    # Small whole numbers, so that many spans are equally good.
    starts, ends = torch.randint(-2, 3, (2, 3, length), generator=random).float().unbind()
    allowed = torch.rand(3, length, generator=random) < 0.7
    found = best_spans(starts, ends, allowed, longest, count)
    for row in range(3):
        spans = [
            (-float(starts[row, first] + ends[row, last]), first, last)
            for first in range(length)
            for last in range(first, min(length, first + longest))
            if allowed[row, first] and allowed[row, last]
        ]
        known = zip(found.scores[row].tolist(), found.first[row].tolist(), found.last[row].tolist(), strict=True)
        mine = [(-score, first, last) for score, first, last in known if score > -torch.inf]
        assert mine == sorted(spans)[:count]
    padded = [torch.nn.functional.pad(grid, (0, pad)) for grid in (starts, ends, allowed)]
    again = best_spans(padded[0], padded[1], padded[2], longest, count)
    real = found.scores > -torch.inf
    for before, after in zip(found, again, strict=True):
        assert torch.equal(before[real], after[:, : before.shape[1]][real])
