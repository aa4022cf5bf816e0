"""Position-wise feed-forward layers, plain or gated.

Axes: N real tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etude.models.layers.dropout import Dropout

Activation = Callable[[Tensor], Tensor]
"""An elementwise function."""


class SquaredReLU(nn.Module):
    """max(x, 0)² (So et al. 2021, "Primer", section 4)."""

    def forward(self, x: Tensor) -> Tensor:
        """Square what is positive, elementwise."""
        return F.relu(x).square()


class FeedForward(nn.Module):
    """W₂ Dropout(activation(W₁ x + b₁)) + b₂ (Vaswani et al. 2017, equation 2).

    Args:
        width: D.
        feed_forward: Inner width, between the two linear layers.
        dropout: Dropout rate after the activation.
        activation: Applied between the two linear layers.
    """

    def __init__(self, width: int, feed_forward: int, dropout: float, activation: Activation = F.relu) -> None:
        super().__init__()
        self.inner = nn.Linear(width, feed_forward)
        self.activation = activation
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(feed_forward, width)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Transform each position on its own."""
        return self.outer(self.dropout(self.activation(self.inner(x))))


class GatedFeedForward(nn.Module):
    """W₂ Dropout(activation(W x + b) ⊙ (V x + c)) + b₂ (Shazeer 2020, equations 5 and 6, with biases).

    The activation names the variant: sigmoid GLU, identity bilinear, ReLU ReGLU, GELU GEGLU, SiLU (Swish) SwiGLU. It has
    three matrices instead of two: with ⅔ of the inner width it has the parameters and the cost of a `FeedForward`.

    Args:
        width: D.
        feed_forward: Inner width, of the gate and of what is gated.
        dropout: Dropout rate of the gated product.
        activation: Activation of the gate.
    """

    def __init__(self, width: int, feed_forward: int, dropout: float, activation: Activation = F.silu) -> None:
        super().__init__()
        self.gate = nn.Linear(width, feed_forward)
        self.inner = nn.Linear(width, feed_forward)
        self.activation = activation
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(feed_forward, width)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Transform each position on its own."""
        return self.outer(self.dropout(self.activation(self.gate(x)) * self.inner(x)))
