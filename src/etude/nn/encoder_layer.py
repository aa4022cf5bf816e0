"""One layer of an encoder, of BERT's kind as of the original Transformer's.

Axes: N real tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etude.nn.attention import SelfAttention
from etude.nn.feed_forward import Activation, FeedForward
from etude.nn.packing import Layout
from etude.nn.residual import Residual


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual connection.

    Args:
        width: D.
        heads: Heads of the attention.
        feed_forward: Inner width of the feed-forward layer.
        dropout: In the feed-forward layer and on what each sublayer adds.
        residual: Makes a residual connection, given `width` and `dropout`.
        activation: Of the feed-forward layer.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        residual: Callable[..., Residual],
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_residual = residual(width=width, dropout=dropout)
        self.feed_forward = FeedForward(width, feed_forward, dropout, activation)
        self.feed_forward_residual = residual(width=width, dropout=dropout)

    def forward(self, x: Float[Tensor, "N D"], layout: Layout) -> Float[Tensor, "N D"]:
        """Return the states of the next layer."""
        x = self.attention_residual(x, lambda states: self.attention(states, layout))
        return self.feed_forward_residual(x, self.feed_forward)
