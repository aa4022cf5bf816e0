"""Sampling from a model's distribution, or from a part of it.

Each draw is a pure function of (seed, row, sample, position), where a row is identified by a key of its own: neither its
batch, nor its index in the batch, nor its padding changes what is drawn.

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
    bos: int | Int[Tensor, " R"],
    limits: Int[Tensor, " R"],
    constraint: Constraint,
    penalty: LengthPenalty,
    filters: Sequence[Filter],
    keys: Sequence[int],
) -> list[Hypothesis]:
    """Draw each next token by its probability among those that the filters keep.

    Args:
        step: The model's step function.
        start: The model's cache before the first token, for R rows.
        bos: The token that all rows, or each row, start from.
        limits: Largest number of tokens that each row may predict, eos included; at least 1.
        constraint: Tokens that may not be chosen; it also holds eos.
        penalty: Divisor of log-probabilities. It changes no output.
        filters: Applied to the logits in that order before a token is drawn.
        keys: Keys of each row's random numbers.

    Returns:
        A hypothesis for each row, whose log-probability is the model's own, not that of the draw.
    """
    numbers = uniform(keys, int(limits.max())).to(limits.device)

    def draw_next(logits: Float[Tensor, "B V"], rows: Int[Tensor, " B"], length: int) -> Int[Tensor, " B"]:
        logits = logits.float()
        for keep in filters:
            logits = keep(logits)
        return draw(logits, numbers[rows, length - 1])

    return follow(step, start, draw_next, bos=bos, limits=limits, constraint=constraint, penalty=penalty)


def uniform(keys: Sequence[int], count: int) -> Float[Tensor, "R T"]:
    """Return random numbers in [0, 1) for each key, by Philox (Salmon et al. 2011), whose counter is the position.

    A larger count appends numbers and changes none.
    """
    rows = [np.random.Generator(np.random.Philox(key=key)).random(count) for key in keys]
    return torch.from_numpy(np.stack(rows))


def draw(logits: Float[Tensor, "B V"], numbers: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return the token in whose interval each number falls: intervals of width softmax(logits), in order of the ids.

    Sums are in float64, since a float32 sum over a vocabulary would lose improbable tokens.
    """
    ends = logits.double().softmax(dim=1).cumsum(dim=1)
    total = ends[:, -1]
    # Stay below the last end even if rounding lifts the product to it: tokens of zero width are never drawn.
    place = torch.minimum(numbers.to(total) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(ends, place[:, None], right=True).squeeze(1)
