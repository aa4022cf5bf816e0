"""Transformer encoder like BERT (Devlin et al. 2019).

Axes: B rows, L positions, N real tokens, M tokens whose hidden states are needed, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.models.base import BertHead, MaskedLMHead, TextEncoder
from etude.models.layers.attention import SelfAttention
from etude.models.layers.dropout import Dropout
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.positions import Learned, Positions
from etude.models.layers.residual import Norm, PreNorm, Residual, start_at_zero
from etude.models.layers.unpad import Unpadding
from etude.types import Facts

GELU_FEED_FORWARD = partial(FeedForward, activation=F.gelu)
"""Makes BERT's feed-forward layer."""

DEVIATION = 0.02
"""Standard deviation of newly drawn embeddings."""


class Encoder(TextEncoder):
    """Embeddings with a norm, and layers in which every token attends to every real token of its text.

    With `Learned` positions and `PostNorm` it is BERT. If examples are single texts, the embedding of the only token type
    is part of the positions' vectors; if they are pairs, `segments` holds one embedding per token type.

    Args:
        facts: The vocabulary size, and the number of texts per example.
        width: D.
        heads: Number of heads, a divisor of D.
        layers: Number of layers.
        feed_forward: Inner width of the feed-forward layers.
        dropout: Dropout rate of the embeddings and of each sublayer's output.
        max_length: Largest number of tokens in a text.
        attention_dropout: Dropout rate of the attention probabilities.
        activation_dropout: Dropout rate inside feed-forward layers; None: as `dropout`.
        positions: Makes the positions, given `width`, `heads` and `max_length`.
        norm: Makes each norm, given `width`.
        residual: Makes a residual connection, given `width`, `dropout` and `norm`.
        feed_forward_layer: Makes a feed-forward layer, given `width`, `feed_forward` and `dropout`.
        query_key_norm: Whether each head's queries and keys are normalised (see `HeadNorm`).
        zero_residual: Whether the last linear layer of each sublayer starts at zero (see `start_at_zero`).

    Raises:
        ConfigurationError: If the heads do not divide the width, the dropout rate is not a probability below 1, or a part
            cannot start at zero.
    """

    def __init__(
        self,
        facts: Facts,
        width: int,
        heads: int,
        layers: int,
        feed_forward: int,
        dropout: float,
        max_length: int,
        attention_dropout: float = 0.0,
        activation_dropout: float | None = None,
        positions: Callable[..., Positions] = Learned,
        norm: Norm = nn.LayerNorm,
        residual: Callable[..., Residual] = PreNorm,
        feed_forward_layer: Callable[..., nn.Module] = GELU_FEED_FORWARD,
        query_key_norm: bool = False,
        zero_residual: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.max_length = width, max_length
        self.embedding = nn.Embedding(facts.vocabulary, width)
        self.positions = positions(width=width, heads=heads, max_length=max_length, deviation=DEVIATION)
        self.segments = nn.Embedding(facts.segments, width) if facts.segments > 1 else None
        self.embedding_norm = norm(width)
        self.dropout = Dropout(dropout)
        attention = partial(
            SelfAttention,
            width,
            heads,
            dropout=attention_dropout,
            relative=self.positions.relative,
            query_key_norm=query_key_norm,
        )
        inside = dropout if activation_dropout is None else activation_dropout
        transform = partial(feed_forward_layer, width=width, feed_forward=feed_forward, dropout=inside)
        connect = partial(residual, width=width, dropout=dropout, norm=norm)
        self.layers = nn.ModuleList(EncoderLayer(attention, transform, connect) for _ in range(layers))
        self.norm = connect().final_norm()
        self.initialise()
        if zero_residual:
            start_at_zero(self.layers)

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output, each with the norm that ends it: embeddings, then layer after layer."""
        *below, last = self.layers
        segments = () if self.segments is None else (self.segments,)
        return [
            (self.embedding, self.positions, *segments, self.embedding_norm),
            *((layer,) for layer in below),
            (last, self.norm),
        ]

    @property
    def has_token_types(self) -> bool:
        """Whether token type ids have embeddings."""
        return self.segments is not None

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The embedding matrix."""
        return self.embedding.weight

    def masked_lm_head(self) -> MaskedLMHead:
        """Return a newly drawn head."""
        return BertHead(self.width, self.embedding.num_embeddings)

    def initialise(self) -> None:
        """Draw new weights: embeddings with a standard deviation of 0.02, linear layers as Glorot and Bengio 2010."""
        for embedding in filter(None, (self.embedding, self.segments)):
            nn.init.normal_(embedding.weight, std=DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Return the last hidden states; zeros at padding. See `TextEncoder.forward`."""
        layout = Unpadding.from_mask(mask)
        return layout.pad(self.encode(tokens, layout, segments))

    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None = None,
        at: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the last hidden states at real tokens. See `TextEncoder.hidden`.

        After its attention, the last layer is computed only for the tokens `at`.
        """
        return self.encode(tokens, Unpadding.from_mask(mask), segments, at)

    def cls_states(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return the CLS state of each text. See `TextEncoder.cls_states`.

        The last layer multiplies the other tokens by none of its weights, where it can (see `SelfAttention.folds`).
        """
        layout = Unpadding.from_mask(mask)
        return self.encode(tokens, layout, segments, layout.starts)

    def encode(
        self,
        tokens: Int[Tensor, "B L"],
        layout: Unpadding,
        segments: Int[Tensor, "B L"] | None = None,
        at: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the last hidden states as `hidden` does, or as `cls_states` does if `at` is `layout.starts`."""
        x = self.positions.embed(self.embedding(layout.unpad(tokens)), layout.positions)
        if self.segments is not None:
            x = x + self.segments(layout.unpad(torch.zeros_like(tokens) if segments is None else segments))
        x = self.dropout(self.embedding_norm(x))
        *below, last = self.layers
        for layer in below:
            x = layer(x, layout)
        return self.norm(last(x, layout, at))
