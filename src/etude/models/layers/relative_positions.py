"""What self-attention does about the distance between two tokens: nothing, a rotation, or a bias.

Each acts on whole rows in training (`rotate`, `bias`) and on one new token of each row in decoding (`rotate_next`,
`bias_next`), where the tokens before it are numbered from 0. Nothing here is trained or saved, so that all layers of a
model can share one module.

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
    """Nothing: attention that sees its tokens as a set. What acts overrides a pair of methods."""

    def rotate(self, projected: Float[Tensor, "N 3 H K"], positions: Int[Tensor, " N"]) -> Float[Tensor, "N 3 H K"]:
        """Return queries and keys turned as their positions ask for, and the values as they are."""
        return projected

    def rotate_next(self, projected: Float[Tensor, "B 3 H K"], position: int) -> Float[Tensor, "B 3 H K"]:
        """Do what `rotate` does for tokens that all have the same position."""
        return projected

    def bias(self, layout: Unpadding) -> Float[Tensor, "B H L L"] | None:
        """Return what is added to the score of each query and key of a row; None: nothing."""
        return None

    def bias_next(self, length: int) -> Float[Tensor, "1 H 1 L"] | None:
        """Return the `bias` between the last of `length` tokens and all of them."""
        return None


class Rotation(Relative):
    """Rotary embedding (Su et al. 2021, equation 34): a score then depends on the distance of its tokens alone.

    Elements i and i + K/2 of a head are the coordinates of a point, turned by p base^(-2i/K) at position p. (The paper
    pairs neighbours: the same up to the order of a head's elements, which is free. Llama pairs as here.)

    Args:
        head_width: K.
        max_length: Positions there are.
        base: The larger, the longer the distances that are told apart.

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
        """Turn queries and keys."""
        return _turned(projected, self.cosine.index_select(0, positions), self.sine.index_select(0, positions))

    def rotate_next(self, projected: Float[Tensor, "B 3 H K"], position: int) -> Float[Tensor, "B 3 H K"]:
        """Turn queries and keys, all by the same angles."""
        return _turned(projected, self.cosine[position, None], self.sine[position, None])


def _turned(
    projected: Float[Tensor, "N 3 H K"], cosine: Float[Tensor, "#N 1 1 half"], sine: Float[Tensor, "#N 1 1 half"]
) -> Float[Tensor, "N 3 H K"]:
    first, second = projected[:, :2].chunk(2, dim=3)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=3)
    return torch.cat([turned.to(projected.dtype), projected[:, 2:]], dim=1)


class LinearBias(Relative):
    """ALiBi (Press et al. 2022, section 3): from the score of a query and a key, m times their distance is taken.

    The slope m is a head's own: `slopes`. Distances count in both directions alike: for causal attention that is the
    paper's form; an encoder cannot tell a text from the same one backwards.

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

    For other numbers, as in the authors' code: those of the next smaller power of two, and then every second one, from
    the first, of its double.
    """
    power = 2 ** int(math.log2(heads))
    whole = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2 ** (-4 * head / power) for head in range(1, 2 * power + 1, 2)]
    return torch.tensor([*whole, *between][:heads])
