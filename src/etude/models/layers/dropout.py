"""Dropout (Srivastava et al. 2014) that costs little on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from etude.errors import ConfigurationError

LEVELS = 256
"""Number of values of the random byte that decides about one element."""


class Dropout(nn.Module):
    """Sets elements to zero at random in training and scales the others so that the mean is preserved.

    On a CPU, one random byte decides about each element: eight per draw of torch's default generator, which are as
    independent as that generator's bits. The probability is therefore rounded to a multiple of 1/256 (0.1 becomes
    26/256), and the scale follows the rounded probability, so that the mean stays unbiased. Forward and backward take a
    tenth of the time of `F.dropout`, which draws a whole word for each element. Other devices use `F.dropout`, and so does a
    compiled layer.

    Args:
        probability: Dropout rate, from 0 to 255/256; below 1/512 it is 0 on a CPU.

    Raises:
        ConfigurationError: If the probability is out of range.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability <= (LEVELS - 1) / LEVELS:
            raise ConfigurationError(f"dropout = {probability} is not a probability below 1; try dropout=0.1")
        self.probability = probability
        self.dropped_levels = round(probability * LEVELS)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `x` with elements dropped in training, `x` itself in evaluation."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        if torch.compiler.is_compiling():  # a compiler draws in the loop that uses the numbers
            return F.dropout(x, self.dropped_levels / LEVELS)
        return _byte_dropout(x, self.dropped_levels) if self.dropped_levels else x

    def extra_repr(self) -> str:
        """Return the probability for `print(model)`."""
        return f"{self.probability}"


class _ByteDropout(torch.autograd.Function):
    """Multiplies by a mask of bytes, which is all that is saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*shape"], dropped_levels: int) -> Float[Tensor, "*shape"]:
        mask = keep_mask(x.shape, dropped_levels)
        ctx.save_for_backward(mask)
        ctx.scale = LEVELS / (LEVELS - dropped_levels)
        return _scaled_where(mask, x, ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], None]:
        (mask,) = ctx.saved_tensors
        return _scaled_where(mask, gradient, ctx.scale), None


_byte_dropout: Callable[[Tensor, int], Tensor] = _ByteDropout.apply


def keep_mask(shape: torch.Size, dropped_levels: int) -> UInt8[Tensor, "*shape"]:
    """Draw independent bytes on the CPU: 0 with probability `dropped_levels` / 256, else 1.

    Args:
        shape: Shape of the mask.
        dropped_levels: Number of dropped byte values, from 1 to 255.
    """
    # All 64 bits of a word are random only over the full range: `random_()` alone leaves the sign bit zero.
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    # Clamping to two neighbours and subtracting the lower one compares; unlike `>=`, it is vectorised for bytes.
    levels = words.view(torch.uint8)[: shape.numel()].view(shape)
    return levels.clamp_(dropped_levels - 1, dropped_levels).sub_(dropped_levels - 1)


def _scaled_where(mask: UInt8[Tensor, "*shape"], x: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    return mask.to(x.dtype).mul_(scale).mul_(x)
