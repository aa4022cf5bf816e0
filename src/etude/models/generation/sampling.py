"""Outputs that are drawn from the model's distribution, or from a part of it.

Each draw is a pure function of (seed, row, sample, position), where a row is known by a key of its own: neither the
batch that it is in, nor its place there, nor its padding changes what is drawn for it.

Axes: B rows still followed, R rows of the batch, V vocabulary, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from etude.models.generation.constraint import Constraint
from etude.models.generation.greedy_search import follow
from etude.models.generation.hypothesis import CacheT, Hypothesis, Step
from etude.models.generation.length_penalty import LengthPenalty
from etude.models.generation.logit_filters import Filter


def sample(
    step: Step[CacheT],
    start: CacheT,
    *,
    bos: int,
    limits: Int[Tensor, " R"],
    constraint: Constraint,
    penalty: LengthPenalty,
    filters: Sequence[Filter],
    keys: Sequence[int],
) -> list[Hypothesis]:
    """Draw each next token by its probability among those that the filters keep.

    Args:
        step: The model.
        start: Its cache before the first token, of R rows.
        bos: The token to start from.
        limits: The most tokens that each row may predict, eos included; at least 1.
        constraint: What may not be chosen, and which token is eos.
        penalty: What scores are divided by. It changes no output.
        filters: What is done to the logits before a token is drawn, in that order.
        keys: What the random numbers of each row derive from.

    Returns:
        A hypothesis for each row; its log-probability is the model's own, not that of the draw.
    """
    numbers = uniform(keys, int(limits.max())).to(limits.device)

    def drawn(logits: Float[Tensor, "B V"], rows: Int[Tensor, " B"], length: int) -> Int[Tensor, " B"]:
        logits = logits.float()
        for kept in filters:
            logits = kept(logits)
        return draw(logits, numbers[rows, length - 1])

    return follow(step, start, drawn, bos=bos, limits=limits, constraint=constraint, penalty=penalty)


def uniform(keys: Sequence[int], count: int) -> Float[Tensor, "R T"]:
    """Return numbers in [0, 1) for each key: Philox (Salmon et al. 2011) counts the positions, the key is the row's.

    A larger count adds numbers and changes none.
    """
    rows = [np.random.Generator(np.random.Philox(key=key)).random(count) for key in keys]
    return torch.from_numpy(np.stack(rows))


def draw(logits: Float[Tensor, "B V"], numbers: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return the token in whose part of [0, 1) each number falls, parts as wide as softmax(logits), in order of the ids.

    Sums are in float64: a float32 sum over a vocabulary would lose the improbable tokens.
    """
    ends = logits.double().softmax(dim=1).cumsum(dim=1)
    total = ends[:, -1]
    # Below the last end even where rounding has lifted the product to it, so that no token without a part is drawn.
    place = torch.minimum(numbers.to(total) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(ends, place[:, None], right=True).squeeze(1)
