"""Positions of tokens: vectors that are added to the embeddings, or terms of attention that depend on the distance.

Axes: B rows, L positions of a row, N real tokens, D model width, H heads, K head width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import DataError
from etude.models.layers.relative_positions import LinearBias, Relative, Rotation


class TooLongError(DataError, ValueError):
    """A sequence has more tokens than the model has positions."""


class Positions(nn.Module, ABC):
    """The way in which a model represents positions.

    Attributes:
        relative: Part of every self-attention; it holds nothing that is trained or saved.

    Args:
        relative: See above.
    """

    def __init__(self, relative: Relative) -> None:
        super().__init__()
        self.relative = relative

    @abstractmethod
    def embed(self, x: Float[Tensor, "N D"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Add positions, counted from 0, to embeddings, if they are represented there.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """


class Absolute(Positions, ABC):
    """A vector for each position, added to the embedding; attention itself ignores positions."""

    def __init__(self) -> None:
        super().__init__(Relative())

    @abstractmethod
    def forward(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vector of each position, counted from 0.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """

    def embed(self, x: Float[Tensor, "N D"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the sums. Raises what `forward` does."""
        return x + self(positions)


class Sinusoidal(Absolute):
    """Sines and cosines of geometrically growing wavelengths (Vaswani et al. 2017, section 3.5).

    Position p has sin(p / 10000^(2i/D)) at element 2i and the cosine of the same angle at 2i + 1. Nothing is learned
    or saved.

    Args:
        width: D.
        max_length: Number of positions.
        heads: Ignored.
        deviation: Root mean square of the vectors, which should be that of the embeddings they are added to, lest they
            drown them. None: √½, as in the paper, which multiplies the embeddings by √D.
    """

    table: Float[Tensor, "max_length D"]

    def __init__(self, width: int, max_length: int, heads: int = 1, deviation: float | None = None) -> None:
        super().__init__()
        amplitude = 1.0 if deviation is None else math.sqrt(2) * deviation
        self.register_buffer("table", amplitude * sinusoids(width, max_length), persistent=False)

    def forward(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vector of each position, counted from 0.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """
        check_length(positions, len(self.table))
        return self.table.index_select(0, positions)


class Learned(Absolute):
    """One trained vector for each position (Gehring et al. 2017, section 3.1).

    Args:
        width: D.
        max_length: Number of positions.
        heads: Ignored.
        deviation: Standard deviation of newly drawn vectors.
    """

    def __init__(self, width: int, max_length: int, heads: int = 1, deviation: float = 0.02) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_length, width)
        nn.init.normal_(self.embedding.weight, std=deviation)

    def forward(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vector of each position, counted from 0.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """
        check_length(positions, self.embedding.num_embeddings)
        return self.embedding(positions)


class Rotary(Positions):
    """Queries and keys rotated by angles that grow with the position (Su et al. 2021): see `Rotation`.

    Args:
        width: D.
        max_length: Number of positions.
        heads: H; D / H, the width that is rotated, must be even.
        deviation: Ignored.
        base: See `Rotation`.

    Raises:
        ConfigurationError: If a head's width is odd.
    """

    def __init__(
        self, width: int, max_length: int, heads: int = 1, deviation: float | None = None, base: float = 10_000
    ) -> None:
        super().__init__(Rotation(width // heads, max_length, base))
        self.max_length, self.base = max_length, base

    def embed(self, x: Float[Tensor, "N D"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the embeddings as they are.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """
        check_length(positions, self.max_length)
        return x


class ALiBi(Positions):
    """Attention scores lowered in proportion to the distance of query and key (Press et al. 2022): see `LinearBias`.

    Args:
        width: Ignored.
        max_length: Number of positions. More than training needs cost nothing and may be used later.
        heads: H.
        deviation: Ignored.
    """

    def __init__(self, width: int, max_length: int, heads: int = 1, deviation: float | None = None) -> None:
        super().__init__(LinearBias(heads))
        self.max_length = max_length

    def embed(self, x: Float[Tensor, "N D"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the embeddings as they are.

        Raises:
            TooLongError: If a position is not below `max_length`.
        """
        check_length(positions, self.max_length)
        return x


def sinusoids(width: int, max_length: int) -> Float[Tensor, "max_length D"]:
    """Compute the table of `Sinusoidal` in double precision, then round it."""
    positions = torch.arange(max_length, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    angles = positions * torch.exp(pairs * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width].float()


def check_length(positions: Int[Tensor, " N"], max_length: int) -> None:
    """Refuse positions beyond a table's end, which on a GPU would end the process without a message.

    Raises:
        TooLongError: If a position is not below `max_length`.
    """
    length = int(positions.max()) + 1 if len(positions) else 0
    if length > max_length:
        raise TooLongError(
            f"a sequence of {length} tokens is longer than model.max_length = {max_length}; "
            f"set model.max_length={length} or a smaller data.max_length"
        )
