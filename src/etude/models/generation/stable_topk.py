"""Top-k with ties broken in the same way on every device.

Axes: R rows, V values per row, Q largest values.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 8
"""Number of values in a group of `largest`; their places are as far apart as they can be."""

FEW = 1 << 17
"""Number of values below which `torch.topk` is faster."""


def stable_topk(scores: Float[Tensor, "R V"], count: int) -> tuple[Float[Tensor, "R Q"], Int[Tensor, "R Q"]]:
    """Return the largest values of each row and their indices; equal values come in order of their indices.

    `torch.topk` does not specify which of several equal values it returns; on a GPU that depends on the number of rows.
    """
    values, places = largest(scores, min(count + 1, scores.shape[1]))
    if values.shape[1] > count and bool((values[:, count - 1] == values[:, count]).any()):
        # Slow but rare: equal values lie on both sides of the cut.
        places = scores.argsort(dim=1, descending=True, stable=True)
    else:
        places = places[:, :count].sort(dim=1).values
        order = scores.gather(1, places).argsort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
    return scores.gather(1, places[:, :count]), places[:, :count]


def largest(scores: Float[Tensor, "R V"], count: int) -> tuple[Float[Tensor, "R Q"], Int[Tensor, "R Q"]]:
    """Return the largest values of each row, and indices where they are: of equal values, any.

    On a CPU `torch.topk` takes several times as long as the largest value of a row. The `count` largest values are in the
    `count` groups with the largest maxima, so that it need only look at the maxima and at those groups.
    """
    groups = scores.shape[1] // GROUP
    if scores.device.type != "cpu" or scores.numel() < FEW or groups < GROUP * count:
        return scores.topk(count)
    grouped = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups))
    group = grouped.amax(dim=1).topk(count).indices  # [R, Q]
    members = torch.arange(0, groups * GROUP, groups)[:, None] + group[:, None]  # [R, GROUP, Q]
    rest = torch.arange(groups * GROUP, scores.shape[1]).expand(len(scores), -1)
    places = torch.cat([members.flatten(1), rest], dim=1)
    values, which = scores.gather(1, places).topk(count)
    return values, places.gather(1, which)
