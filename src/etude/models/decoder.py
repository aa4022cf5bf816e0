"""Transformer decoder like GPT (Radford et al. 2018, 2019), which predicts every token from those before it.

Axes: B rows, L positions, N real tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.models.base import TextDecoder
from etude.models.layers.attention import SelfAttention
from etude.models.layers.dropout import Dropout
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.positions import Learned, Positions
from etude.models.layers.residual import Norm, PreNorm, Residual, start_at_zero
from etude.models.layers.unpad import DocumentUnpadding, Unpadding
from etude.models.losses.soft_cap import check_cap
from etude.types import Facts

GELU_FEED_FORWARD = partial(FeedForward, activation=F.gelu)
"""Makes GPT's feed-forward layer."""

DEVIATION = 0.02
"""Standard deviation of newly drawn weights."""


@dataclass(frozen=True)
class Past:
    """Cache between steps of decoding. It is immutable: every step returns a new cache.

    Attributes:
        tokens: Token ids that were read, from position 0 on.
        layers: Key-value cache of each layer's self-attention at these positions.
    """

    tokens: Int[Tensor, "B L"]
    layers: tuple[KeyValueCache, ...]

    def select(self, rows: Int[Tensor, " R"]) -> Past:
        """Return the cache of the given rows, in that order; rows may be repeated or left out."""
        return Past(self.tokens.index_select(0, rows), tuple(layer.select(rows) for layer in self.layers))


class CausalLayer(EncoderLayer):
    """Causal self-attention and feed-forward, each with its residual connection."""

    def step(self, x: Float[Tensor, "B D"], past: KeyValueCache) -> Float[Tensor, "B D"]:
        """Return the output states of one new position in each row, whose keys and values are appended to `past`."""
        x = self.attention_residual(x, lambda states: self.attention.step(states, past))
        return self.feed_forward_residual(x, self.feed_forward)


class Decoder(TextDecoder):
    """Embeddings, layers in which a token attends to itself and those before it, and logits by the embedding matrix.

    With `Learned` positions and `PreNorm` it is GPT-2 (Radford et al. 2019). Linear layers and norms see real tokens only.

    Args:
        facts: The vocabulary size.
        width: D.
        heads: Number of heads, a divisor of D.
        layers: Number of layers.
        feed_forward: Inner width of the feed-forward layers.
        dropout: Dropout rate of the embeddings and of each sublayer's output.
        max_length: Largest number of tokens that are read at once.
        attention_dropout: Dropout rate of the attention probabilities.
        activation_dropout: Dropout rate inside feed-forward layers; None: as `dropout`.
        positions: Makes the positions, given `width`, `heads` and `max_length`.
        norm: Makes each norm, given `width`.
        residual: Makes a residual connection, given `width`, `dropout` and `norm`.
        feed_forward_layer: Makes a feed-forward layer, given `width`, `feed_forward` and `dropout`.
        query_key_norm: Whether each head's queries and keys are normalised (see `HeadNorm`).
        logit_cap: Bound of the logits, by soft-capping (see `soft_cap`); None: none.
        zero_residual: Whether the last linear layer of each sublayer starts at zero (see `start_at_zero`).

    Raises:
        ConfigurationError: If the heads do not divide the width, the dropout rate is not a probability below 1, the cap is
            not above 0, or a part cannot start at zero.
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
        logit_cap: float | None = None,
        zero_residual: bool = False,
    ) -> None:
        super().__init__()
        check_cap(logit_cap)
        self.logit_cap = logit_cap
        self.width, self.heads, self.max_length, self.vocabulary = width, heads, max_length, facts.vocabulary
        self.embedding = nn.Embedding(facts.vocabulary, width)
        self.positions = positions(width=width, heads=heads, max_length=max_length, deviation=DEVIATION)
        self.dropout = Dropout(dropout)
        attention = partial(
            SelfAttention,
            width,
            heads,
            causal=True,
            dropout=attention_dropout,
            relative=self.positions.relative,
            query_key_norm=query_key_norm,
        )
        inside = dropout if activation_dropout is None else activation_dropout
        transform = partial(feed_forward_layer, width=width, feed_forward=feed_forward, dropout=inside)
        connect = partial(residual, width=width, dropout=dropout, norm=norm)
        self.layers = nn.ModuleList(CausalLayer(attention, transform, connect) for _ in range(layers))
        self.norm = connect().final_norm()
        self.initialise()
        if zero_residual:
            start_at_zero(self.layers)

    def initialise(self) -> None:
        """Draw new weights with a standard deviation of 0.02, as in GPT-2.

        The last linear layer of each sublayer gets 0.02 / √(2 layers), so that the residual stream does not grow with
        the depth (Radford et al. 2019, section 2.3).
        """
        nn.init.normal_(self.embedding.weight, std=DEVIATION)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                is_last = name.endswith(("attention.output", "feed_forward.outer"))
                scale = 1 / math.sqrt(2 * len(self.layers)) if is_last else 1.0
                nn.init.normal_(module.weight, std=DEVIATION * scale)
                nn.init.zeros_(module.bias)

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output: embeddings, then layer after layer, the last with the final norm."""
        *below, last = self.layers
        return [(self.embedding, self.positions), *((layer,) for layer in below), (last, self.norm)]

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from hidden states to logits, tied to the embedding (Press and Wolf 2017)."""
        return self.embedding.weight

    @property
    def output_bias(self) -> None:
        """None: the logits have no bias."""
        return None

    def hidden(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "N D"]:
        """Return the last hidden states at the N real tokens, in the order of `tokens[mask]`. See `TextDecoder.hidden`."""
        layout = Unpadding.from_mask(mask) if documents is None else DocumentUnpadding.of(mask, documents)
        x = self.dropout(self.positions.embed(self.embedding(layout.unpad(tokens)), layout.positions))
        for layer in self.layers:
            x = layer(x, layout)
        return self.norm(x)

    def start(self, rows: int) -> Past:
        """Return an empty cache for the given number of rows."""
        weight = self.embedding.weight
        empty = weight.new_empty(rows, 0, 2, self.heads, self.width // self.heads)
        tokens = torch.empty(rows, 0, dtype=torch.long, device=weight.device)
        return Past(tokens, (KeyValueCache(empty),) * len(self.layers))

    def step(self, tokens: Int[Tensor, " B"], past: Past) -> tuple[Float[Tensor, "B V"], Past]:
        """Decode one position further. See `TextDecoder.step`."""
        if past.tokens.shape[1] == self.max_length:
            past = self._halved(past)
        states, past = self._read(tokens, past)
        return self.logits(self.norm(states)), past

    def _halved(self, past: Past) -> Past:
        """Return the cache of the newer half of the tokens, read again from position 0."""
        newer = past.tokens[:, past.tokens.shape[1] - self.max_length // 2 :]
        fresh = self.start(len(newer))
        for column in newer.unbind(1):
            _, fresh = self._read(column, fresh)
        return fresh

    def _read(self, tokens: Int[Tensor, " B"], past: Past) -> tuple[Float[Tensor, "B D"], Past]:
        """Return the hidden states of a new position before the final norm, and the cache with that position."""
        layers = tuple(layer.copy() for layer in past.layers)
        position = tokens.new_full((1,), past.tokens.shape[1])
        x = self.dropout(self.positions.embed(self.embedding(tokens), position))
        for layer, cache in zip(self.layers, layers, strict=True):
            x = cast(CausalLayer, layer).step(x, cache)
        return x, Past(torch.cat([past.tokens, tokens[:, None]], dim=1), layers)
