"""Answer spans in texts whose tokens are scored as the first and as the last of an answer.

Axes: B texts, L positions, K spans.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class BestSpans(NamedTuple):
    """The best spans of each text, best first.

    Attributes:
        scores: Sums of both scores; -inf if a text has fewer spans.
        first: Position of the first token.
        last: Position of the last token.
    """

    scores: Float[Tensor, "B K"]
    first: Int[Tensor, "B K"]
    last: Int[Tensor, "B K"]


def best_spans(
    starts: Float[Tensor, "B L"], ends: Float[Tensor, "B L"], allowed: Bool[Tensor, "B L"], longest: int, count: int
) -> BestSpans:
    """Find the spans with the highest start + end among all spans, not only among the best starts and ends.

    Ties are broken in favour of the earlier, then the shorter span, so that padding changes nothing.

    Args:
        starts: Scores of positions as the first of a span.
        ends: Scores of positions as the last of a span.
        allowed: True at positions where a span may start and end.
        longest: Largest number of tokens in a span.
        count: K, if the texts are long enough.
    """
    closed = -torch.inf
    starts, ends = starts.masked_fill(~allowed, closed), ends.masked_fill(~allowed, closed)
    # [B, L, longest]: the scores of the positions from each start on as ends.
    reachable = F.pad(ends, (0, longest - 1), value=closed).unfold(1, longest, 1)
    scores = (starts[:, :, None] + reachable).flatten(1)
    ordered, places = scores.sort(dim=1, descending=True, stable=True)
    first, length = places[:, :count] // longest, places[:, :count] % longest
    return BestSpans(ordered[:, :count], first, first + length)
