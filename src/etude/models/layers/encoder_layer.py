"""One layer of an encoder, of BERT's kind as of the original Transformer's.

Axes: N real tokens, M those of them whose states are asked for, D model width.
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
        """Return the states of the next layer.

        Args:
            x: States of all tokens, which attention looks at.
            layout: Where the tokens are.
            at: The tokens whose next states are asked for, by number; None: all. The others cost nothing after attention.
        """
        x = self.attention_residual(x, lambda states: self.attention(states, layout, at), at)
        return self.feed_forward_residual(x, self.feed_forward)
