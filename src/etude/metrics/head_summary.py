"""Attention heads described by a few numbers, as in Voita et al. 2019 and Clark et al. 2019.

Axes: H heads, Q queries, L keys.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from etude.metrics.attention_head import HeadSummary


def head_summaries(weights: Float[Tensor, "H Q L"]) -> list[HeadSummary]:
    """Return the summary of each head.

    The key opposite query i is key i in self-attention; between texts of different lengths it is the key at the same
    relative position. Where there is no key before or after that, its share is 0.

    Args:
        weights: Rows that sum to 1.
    """
    places = opposite(weights.shape[1], weights.shape[2])
    distance = (torch.arange(weights.shape[2]) - places[:, None]).to(weights)
    shares = [(weights * (distance == offset)).sum(dim=2).mean(dim=1) for offset in (0, -1, 1)]
    columns = [
        torch.special.entr(weights).sum(dim=2).mean(dim=1),
        (weights * distance.abs()).sum(dim=2).mean(dim=1),
        *shares,
        weights[:, :, 0].mean(dim=1),
        weights[:, :, -1].mean(dim=1),
    ]
    return [HeadSummary(*values) for values in torch.stack(columns, dim=1).tolist()]


def opposite(queries: int, keys: int) -> Int[Tensor, " Q"]:
    """Return the key at the same relative position as each query: the diagonal of a map of any shape."""
    return torch.linspace(0, keys - 1, queries, dtype=torch.float64).round().long()
