"""An encoder of BERT's kind (Devlin et al. 2019).

Axes: B texts, L positions, N real tokens, M those of them whose states are asked for, D model width.
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
from etude.models.layers.residual import Norm, PreNorm, Residual
from etude.models.layers.unpad import Unpadding
from etude.types import Facts

GELU_FEED_FORWARD = partial(FeedForward, activation=F.gelu)
"""Makes BERT's feed-forward layer."""

DEVIATION = 0.02
"""Of new embeddings."""


class Encoder(TextEncoder):
    """Embeddings with a norm, and layers in which every token attends to every real token of its text.

    With `Learned` positions and `PostNorm` it is BERT. Where examples are single texts, the embedding of the only segment
    is a part of the positions'; where they are pairs, `segments` has one for each.

    Args:
        facts: The vocabulary's size, and how many texts an example has.
        width: D.
        heads: Heads of each attention, a divisor of D.
        layers: How many.
        feed_forward: Inner width of the feed-forward layers.
        dropout: On embeddings and on what each sublayer adds.
        max_length: The most tokens of a text.
        attention_dropout: On the probabilities of attention.
        activation_dropout: Inside feed-forward layers; None: as `dropout`.
        positions: Makes the positions, given `width`, `heads` and `max_length`.
        norm: Makes each norm, given `width`.
        residual: Makes a residual connection, given `width`, `dropout` and `norm`.
        feed_forward_layer: Makes a feed-forward layer, given `width`, `feed_forward` and `dropout`.

    Raises:
        ConfigurationError: If the heads do not divide the width, or the dropout is no probability below 1.
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
    ) -> None:
        super().__init__()
        self.width, self.max_length = width, max_length
        self.embedding = nn.Embedding(facts.vocabulary, width)
        self.positions = positions(width=width, heads=heads, max_length=max_length, deviation=DEVIATION)
        self.segments = nn.Embedding(facts.segments, width) if facts.segments > 1 else None
        self.embedding_norm = norm(width)
        self.dropout = Dropout(dropout)
        attention = partial(SelfAttention, width, heads, dropout=attention_dropout, relative=self.positions.relative)
        inside = dropout if activation_dropout is None else activation_dropout
        transform = partial(feed_forward_layer, width=width, feed_forward=feed_forward, dropout=inside)
        connect = partial(residual, width=width, dropout=dropout, norm=norm)
        self.layers = nn.ModuleList(EncoderLayer(attention, transform, connect) for _ in range(layers))
        self.norm = connect().final_norm()
        self.initialise()

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Its parts from the input to the output, each with the norm that ends it: embeddings, then layer after layer."""
        *below, last = self.layers
        segments = () if self.segments is None else (self.segments,)
        return [
            (self.embedding, self.positions, *segments, self.embedding_norm),
            *((layer,) for layer in below),
            (last, self.norm),
        ]

    @property
    def tells_apart(self) -> bool:
        """Whether it has vectors for the second text of a pair."""
        return self.segments is not None

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The embedding of each id."""
        return self.embedding.weight

    def masked_lm_head(self) -> MaskedLMHead:
        """Return a new head."""
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
        """Return the last states; zeros at padding. As `TextEncoder` says."""
        layout = Unpadding.from_mask(mask)
        return layout.pad(self.encode(tokens, layout, segments))

    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None = None,
        at: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the last states at real tokens, all or those `at` the given numbers. As `TextEncoder` says.

        The last layer is computed for these only, behind its attention.
        """
        return self.encode(tokens, Unpadding.from_mask(mask), segments, at)

    def first(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return the last state of the token that starts each text. As `TextEncoder` says.

        For the other tokens, the last layer multiplies nothing by its weights (see `SelfAttention`).
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
        """Return the last states at the real tokens of a layout, as `hidden` does, or `first`, if `at` is its `starts`."""
        x = self.positions.embed(self.embedding(layout.pack(tokens)), layout.positions)
        if self.segments is not None:
            x = x + self.segments(layout.pack(torch.zeros_like(tokens) if segments is None else segments))
        x = self.dropout(self.embedding_norm(x))
        *below, last = self.layers
        for layer in below:
            x = layer(x, layout)
        return self.norm(last(x, layout, at))
