"""Filters of logits for sampling, which return minus infinity at the tokens that they exclude.

They are composed by calling one after another; the most probable token is never excluded.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from etude.models.generation.stable_topk import stable_topk

Filter = Callable[[Float[Tensor, "B V"]], Float[Tensor, "B V"]]


def temper(logits: Float[Tensor, "B V"], temperature: float) -> Float[Tensor, "B V"]:
    """Divide by the temperature: below 1, probable tokens become more probable; above 1, less."""
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "B V"], count: int) -> Float[Tensor, "B V"]:
    """Keep the `count` most probable tokens of each row; ties are broken in favour of smaller ids."""
    best, tokens = stable_topk(logits, min(count, logits.shape[1]))
    return logits.new_full(logits.shape, -math.inf).scatter_(1, tokens, best)


def keep_top_p(logits: Float[Tensor, "B V"], share: float) -> Float[Tensor, "B V"]:
    """Keep the fewest tokens whose probabilities together reach `share` (Holtzman et al. 2020, section 3.1).

    Args:
        logits: Scores of the next token.
        share: In (0, 1]; 1 keeps all.
    """
    best, tokens = logits.sort(dim=1, descending=True, stable=True)
    probability = best.double().softmax(dim=1)
    before = probability.cumsum(dim=1) - probability
    best = best.masked_fill(before >= share, -math.inf)
    return logits.new_full(logits.shape, -math.inf).scatter_(1, tokens, best)


def keep_min_p(logits: Float[Tensor, "B V"], share: float) -> Float[Tensor, "B V"]:
    """Keep the tokens at least `share` times as probable as the most probable one (Nguyen et al. 2024, section 3).

    Args:
        logits: Scores of the next token.
        share: In [0, 1]; 0 keeps all.
    """
    bound = logits.amax(dim=1, keepdim=True) + (math.log(share) if share else -math.inf)
    return logits.masked_fill(logits < bound, -math.inf)
