"""Greedy search: the most probable token, one after the other."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from etude.decoding.hypothesis import CacheT, Hypothesis, Step, length_penalty, log_probabilities


def greedy_search(
    step: Step[CacheT],
    start: CacheT,
    *,
    bos: int,
    eos: int,
    limits: Int[Tensor, " B"],
    alpha: float = 0.0,
    min_length: int = 0,
) -> list[Hypothesis]:
    """Choose the most probable token until it is eos; of equally probable ones, the one with the smallest id.

    Args:
        step: The model.
        start: Its cache before the first token, of B rows.
        bos: The token to start from.
        eos: The token to end at.
        limits: The most tokens that each row may predict, eos included; at least 1.
        alpha: Exponent of the length penalty. It changes scores, not outputs.
        min_length: The fewest tokens of a finished hypothesis, eos left out.

    Returns:
        A hypothesis for each row.
    """
    rows, longest = len(limits), int(limits.max())
    chosen = limits.new_full((rows, longest), eos)
    total = torch.zeros(rows, dtype=torch.float64, device=limits.device)
    active = torch.arange(rows, device=limits.device)
    tokens, cache = torch.full_like(limits, bos), start
    for length in range(1, longest + 1):
        logits, cache = step(tokens, cache)
        best, tokens = log_probabilities(logits, eos if length <= min_length else None).max(dim=-1)
        total[active] += best
        chosen[active, length - 1] = tokens
        going = (tokens != eos) & (limits[active] > length)
        if not going.all():
            active, tokens = active[going], tokens[going]
            if not len(active):
                break
            cache = cache.select(going.nonzero().squeeze(1))
    return [
        _hypothesis(ids[:limit], eos, log_probability, alpha)
        for ids, limit, log_probability in zip(chosen.tolist(), limits.tolist(), total.tolist(), strict=True)
    ]


def _hypothesis(ids: list[int], eos: int, log_probability: float, alpha: float) -> Hypothesis:
    finished = eos in ids
    tokens = tuple(ids[: ids.index(eos)]) if finished else tuple(ids)
    return Hypothesis(
        tokens, log_probability / length_penalty(len(tokens) + finished, alpha), finished, log_probability
    )
