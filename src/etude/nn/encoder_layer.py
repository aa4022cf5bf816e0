"""One layer of an encoder, of BERT's kind as of the original Transformer's.

Axes: N real tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from etude.nn.attention import SelfAttention
from etude.nn.packing import Layout
from etude.nn.residual import Residual


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual connection.

    Args:
        attention: Makes the self-attention.
        feed_forward: Makes the feed-forward layer.
        residual: Makes a residual connection.
    """

    def __init__(
        self,
        attention: Callable[[], SelfAttention],
        feed_forward: Callable[[], nn.Module],
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.attention = attention()
        self.attention_residual = residual()
        self.feed_forward = feed_forward()
        self.feed_forward_residual = residual()

    def forward(self, x: Float[Tensor, "N D"], layout: Layout) -> Float[Tensor, "N D"]:
        """Return the states of the next layer."""
        x = self.attention_residual(x, lambda states: self.attention(states, layout))
        return self.feed_forward_residual(x, self.feed_forward)
