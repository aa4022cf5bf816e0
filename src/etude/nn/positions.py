"""Where tokens stand: vectors that are added to their embeddings.

Axes: N tokens, D model width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import DataError


class TooLongError(DataError, ValueError):
    """A sequence has more tokens than the model has positions."""


class Sinusoidal(nn.Module):
    """Sines and cosines of geometrically growing wavelengths (Vaswani et al. 2017, section 3.5).

    Position p has sin(p / 10000^(2i/D)) at element 2i and the cosine of the same angle at 2i + 1. Nothing is learned
    or saved.

    Args:
        width: D.
        max_length: Positions there are.
    """

    table: Float[Tensor, "max_length D"]

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(width, max_length), persistent=False)

    def forward(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vector of each position, counted from 0.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """
        check_length(positions, len(self.table))
        return self.table.index_select(0, positions)


class Learned(nn.Module):
    """One trained vector for each position (Gehring et al. 2017, section 3.1), with a standard deviation of 0.02.

    Args:
        width: D.
        max_length: Positions there are.
    """

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_length, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vector of each position, counted from 0.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """
        check_length(positions, self.embedding.num_embeddings)
        return self.embedding(positions)


def sinusoids(width: int, max_length: int) -> Float[Tensor, "max_length D"]:
    """Compute the table of `Sinusoidal` in double precision, then round it."""
    positions = torch.arange(max_length, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    angles = positions * torch.exp(pairs * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width].float()


def check_length(positions: Int[Tensor, " N"], max_length: int) -> None:
    """Refuse positions that a table does not have, which on a GPU would end the process without a message.

    Raises:
        TooLongError: If one is `max_length` or more.
    """
    length = int(positions.max()) + 1 if len(positions) else 0
    if length > max_length:
        raise TooLongError(
            f"a sequence of {length} tokens is longer than model.max_length = {max_length}; "
            f"set model.max_length={length} or a smaller data.max_length"
        )
