"""Greedy search, and the loop over tokens that it shares with sampling.

Axes: B rows still followed, R rows of the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from etude.models.generation.constraint import Constraint
from etude.models.generation.hypothesis import CacheT, Hypothesis, Step, log_normalizer
from etude.models.generation.length_penalty import LengthPenalty

Choose = Callable[[Float[Tensor, "B V"], Int[Tensor, " B"], int], Int[Tensor, " B"]]
"""Returns the next token of each row, given its logits (minus infinity at excluded tokens), the rows' indices in the
batch, and the number of predicted tokens including the next."""


def greedy_search(
    step: Step[CacheT],
    start: CacheT,
    *,
    bos: int | Int[Tensor, " R"],
    limits: Int[Tensor, " R"],
    constraint: Constraint,
    penalty: LengthPenalty,
) -> list[Hypothesis]:
    """Choose the most probable token until eos; ties are broken in favour of the smallest id.

    Takes and returns what `follow` does.
    """

    def most_probable(logits: Float[Tensor, "B V"], _rows: Int[Tensor, " B"], _length: int) -> Int[Tensor, " B"]:
        return logits.argmax(dim=-1)

    return follow(step, start, most_probable, bos=bos, limits=limits, constraint=constraint, penalty=penalty)


@torch.no_grad()
def follow(
    step: Step[CacheT],
    start: CacheT,
    choose: Choose,
    *,
    bos: int | Int[Tensor, " R"],
    limits: Int[Tensor, " R"],
    constraint: Constraint,
    penalty: LengthPenalty,
) -> list[Hypothesis]:
    """Extend each row by chosen tokens until eos or until the row's limit is reached.

    Args:
        step: The model's step function.
        start: The model's cache before the first token, for R rows.
        choose: Chooses the next tokens.
        bos: The token that all rows, or each row, start from.
        limits: Largest number of tokens that each row may predict, eos included; at least 1.
        constraint: Tokens that may not be chosen; it also holds eos.
        penalty: Divisor of log-probabilities. It changes no output.

    Returns:
        A hypothesis for each row, with the model's own log-probability.
    """
    rows, longest, eos = len(limits), int(limits.max()), constraint.eos
    chosen = limits.new_full((rows, longest), eos)
    total = torch.zeros(rows, dtype=torch.float64, device=limits.device)
    active = torch.arange(rows, device=limits.device)
    tokens, cache = torch.full_like(limits, bos) if isinstance(bos, int) else bos, start
    for length in range(1, longest + 1):
        logits, cache = step(tokens, cache)
        tokens = choose(constraint(logits, active, length), active, length)
        own = logits.gather(1, tokens[:, None]).float()
        total[active] += (own - log_normalizer(logits)).squeeze(1)
        chosen[active, length - 1] = tokens
        going = (tokens != constraint.ends(active, length)) & (limits[active] > length)
        if not going.all():
            active, tokens = active[going], tokens[going]
            if not len(active):
                break
            cache = cache.select(going.nonzero().squeeze(1))
    columns = (chosen.tolist(), limits.tolist(), total.tolist(), constraint.prefix_sizes(rows))
    return [
        Hypothesis.of(ids[:limit], eos, log_probability, penalty, prefix)
        for ids, limit, log_probability, prefix in zip(*columns, strict=True)
    ]
