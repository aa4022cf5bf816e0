"""Relative positions in self-attention: none, a rotation of queries and keys, or a bias of the scores.

Each acts on whole rows in training (`rotate`, `bias`) and on one new token of each row in decoding (`rotate_next`,
`bias_next`), where positions count from 0. Nothing here is trained or saved, so that all layers of a model can share one
module.

Axes: B rows, L positions of a row, N real tokens, H heads, K head width. "3" is query, key and value.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.layers.unpad import Unpadding


class Relative(nn.Module):
    """No relative positions: attention sees its tokens as a set. Subclasses override a pair of methods."""

    def rotate(self, projected: Float[Tensor, "N 3 H K"], positions: Int[Tensor, " N"]) -> Float[Tensor, "N 3 H K"]:
        """Return queries and keys rotated according to their positions, and the values unchanged."""
        return projected

    def rotate_next(self, projected: Float[Tensor, "B 3 H K"], position: int) -> Float[Tensor, "B 3 H K"]:
        """Rotate as `rotate` does, for tokens that all have the same position."""
        return projected

    def bias(self, layout: Unpadding) -> Float[Tensor, "B H L L"] | None:
        """Return the bias of the score of each query and key of a row; None: no bias."""
        return None

    def bias_next(self, length: int) -> Float[Tensor, "1 H 1 L"] | None:
        """Return the `bias` between the last of `length` tokens and all of them."""
        return None


class Rotation(Relative):
    """Rotary embedding (Su et al. 2021, equation 34): scores depend on the distance of two tokens alone.

    Elements i and i + K/2 of a head are the coordinates of a point, rotated by p base^(-2i/K) at position p. (The paper
    pairs neighbours, which is the same up to the order of a head's elements. Llama pairs as here.)

    Args:
        head_width: K.
        max_length: Number of positions.
        base: The larger, the longer the distances that can be distinguished.

    Raises:
        ConfigurationError: If K is odd.
    """

    cosine: Float[Tensor, "max_length 1 1 half"]
    sine: Float[Tensor, "max_length 1 1 half"]

    def __init__(self, head_width: int, max_length: int, base: float = 10_000) -> None:
        super().__init__()
        if head_width % 2:
            raise ConfigurationError(
                f"model.width / model.heads = {head_width} is odd, but rotary positions turn pairs of elements; "
                "try another model.heads or model.positions._target_=etude.models.layers.positions.Sinusoidal"
            )
        pairs = torch.arange(0, head_width, 2, dtype=torch.float64)
        angles = torch.arange(max_length, dtype=torch.float64)[:, None] * base ** (-pairs / head_width)
        self.register_buffer("cosine", angles.cos().float()[:, None, None], persistent=False)
        self.register_buffer("sine", angles.sin().float()[:, None, None], persistent=False)

    def rotate(self, projected: Float[Tensor, "N 3 H K"], positions: Int[Tensor, " N"]) -> Float[Tensor, "N 3 H K"]:
        """Rotate queries and keys."""
        return _rotated(projected, self.cosine.index_select(0, positions), self.sine.index_select(0, positions))

    def rotate_next(self, projected: Float[Tensor, "B 3 H K"], position: int) -> Float[Tensor, "B 3 H K"]:
        """Rotate queries and keys, all by the same angles."""
        return _rotated(projected, self.cosine[position, None], self.sine[position, None])


def _rotated(
    projected: Float[Tensor, "N 3 H K"], cosine: Float[Tensor, "#N 1 1 half"], sine: Float[Tensor, "#N 1 1 half"]
) -> Float[Tensor, "N 3 H K"]:
    first, second = projected[:, :2].chunk(2, dim=3)
    rotated = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=3)
    return torch.cat([rotated.to(projected.dtype), projected[:, 2:]], dim=1)


class LinearBias(Relative):
    """ALiBi (Press et al. 2022, section 3): subtracts m times the distance from the score of a query and a key.

    Each head has a slope m of its own (`slopes`). Both directions count alike: for causal attention this is the
    paper's form; an encoder cannot distinguish a text from its reverse.

    Args:
        heads: H.
    """

    slopes: Float[Tensor, " H"]

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", slopes(heads), persistent=False)

    def bias(self, layout: Unpadding) -> Float[Tensor, "B H L L"]:
        """Return the negative distances of a row's tokens, times the slopes."""
        positions = layout.grid_positions
        distances = (positions[:, None, :, None] - positions[:, None, None, :]).abs()
        return distances * -self.slopes[:, None, None]

    def bias_next(self, length: int) -> Float[Tensor, "1 H 1 L"]:
        """Return the negative distances to the last of `length` tokens, times the slopes."""
        distances = torch.arange(length - 1, -1, -1, device=self.slopes.device)
        return distances * -self.slopes[None, :, None, None]


def slopes(heads: int) -> Float[Tensor, " H"]:
    """Return ALiBi's slopes: for a power of two heads, 2^(-8/H), 2^(-16/H), … to 2^-8.

    For other numbers of heads, as in the authors' code: the slopes of the next smaller power of two, then every second
    slope, from the first, of its double.
    """
    power = 2 ** int(math.log2(heads))
    whole = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2 ** (-4 * head / power) for head in range(1, 2 * power + 1, 2)]
    return torch.tensor([*whole, *between][:heads])
