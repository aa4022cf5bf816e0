"""The largest values of each row, the same ones on every device.

Axes: R rows, V values of each, Q of them.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def stable_topk(scores: Float[Tensor, "R V"], count: int) -> tuple[Float[Tensor, "R Q"], Int[Tensor, "R Q"]]:
    """Return the largest values of each row and their places; equal values in order of their places.

    `torch.topk` leaves open which of equal values it returns, and on a GPU that depends on how many rows there are.
    """
    values, places = scores.topk(min(count + 1, scores.shape[1]))
    if values.shape[1] > count and bool((values[:, count - 1] == values[:, count]).any()):
        # Slow, but seldom: the cut goes through equal values.
        places = scores.argsort(dim=1, descending=True, stable=True)
    else:
        places = places[:, :count].sort(dim=1).values
        order = scores.gather(1, places).argsort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
    return scores.gather(1, places[:, :count]), places[:, :count]
