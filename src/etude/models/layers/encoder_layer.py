"""Self-attention layer of encoders.

Axes: N real tokens, M tokens whose states are needed, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.models.layers.attention import SelfAttention
from etude.models.layers.residual import Residual
from etude.models.layers.unpad import Unpadding


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

    def forward(
        self, x: Float[Tensor, "N D"], layout: Unpadding, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Return the layer's output states.

        Args:
            x: States of all tokens, to which attention attends.
            layout: The layout of the tokens.
            at: Indices of the tokens whose output is needed; None: all. The others cost nothing after attention.
        """
        x = self.attention_residual(x, lambda states: self.attention(states, layout, at), at)
        return self.feed_forward_residual(x, self.feed_forward)
