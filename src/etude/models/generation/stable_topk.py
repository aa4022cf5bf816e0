"""Top-k with ties broken in the same way on every device.

Axes: R rows, V values per row, Q largest values.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def stable_topk(scores: Float[Tensor, "R V"], count: int) -> tuple[Float[Tensor, "R Q"], Int[Tensor, "R Q"]]:
    """Return the largest values of each row and their indices; equal values come in order of their indices.

    `torch.topk` does not specify which of several equal values it returns; on a GPU that depends on the number of rows.
    """
    values, places = scores.topk(min(count + 1, scores.shape[1]))
    if values.shape[1] > count and bool((values[:, count - 1] == values[:, count]).any()):
        # Slow but rare: equal values lie on both sides of the cut.
        places = scores.argsort(dim=1, descending=True, stable=True)
    else:
        places = places[:, :count].sort(dim=1).values
        order = scores.gather(1, places).argsort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
    return scores.gather(1, places[:, :count]), places[:, :count]
