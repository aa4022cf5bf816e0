"""The Transformer from sequence to sequence (Vaswani et al. 2017), from its decoder's layer to the whole.

Axes: B rows, G groups of rows, S source length, T target length, N real tokens, D model width, H heads, K head width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder
from etude.models.decoder_memory import DecoderCache, DecoderMemory
from etude.models.layers.attention import CrossAttention, SelfAttention
from etude.models.layers.dropout import Dropout
from etude.models.layers.embeddings import Embeddings, SharedEmbeddings
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.positions import Positions, Sinusoidal
from etude.models.layers.residual import Norm, PreNorm, Residual
from etude.models.layers.unpad import Unpadding
from etude.types import Facts


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, and feed-forward, each with its residual connection.

    Args:
        self_attention: Makes the causal self-attention.
        cross_attention: Makes the attention to the source.
        feed_forward: Makes the feed-forward layer.
        residual: Makes a residual connection.
    """

    def __init__(
        self,
        self_attention: Callable[[], SelfAttention],
        cross_attention: Callable[[], CrossAttention],
        feed_forward: Callable[[], nn.Module],
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention()
        self.self_residual = residual()
        self.cross_attention = cross_attention()
        self.cross_residual = residual()
        self.feed_forward = feed_forward()
        self.feed_forward_residual = residual()

    def forward(
        self,
        x: Float[Tensor, "N D"],
        layout: Unpadding,
        memory: tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]],
        mask: Bool[Tensor, "B 1 1 S"] | None,
    ) -> Float[Tensor, "N D"]:
        """Return the states of the next layer."""
        x = self.self_residual(x, lambda states: self.self_attention(states, layout))
        x = self.cross_residual(x, lambda states: self.cross_attention(states, layout, *memory, mask))
        return self.feed_forward_residual(x, self.feed_forward)

    def step(
        self,
        x: Float[Tensor, "B D"],
        layout: Unpadding,
        past: KeyValueCache,
        memory: tuple[Float[Tensor, "G H S K"], Float[Tensor, "G H S K"]],
        mask: Bool[Tensor, "G 1 1 S"] | None,
    ) -> Float[Tensor, "B D"]:
        """Return the next layer's states of one new position in each row, whose keys and values join `past`.

        The layout, memory and mask are those of groups of rows that translate one sentence.
        """
        x = self.self_residual(x, lambda states: self.self_attention.step(states, past))
        x = self.cross_residual(x, lambda states: self.cross_attention(states, layout, *memory, mask))
        return self.feed_forward_residual(x, self.feed_forward)


class Seq2Seq(EncoderDecoder):
    """Encoder and decoder, which share the positions.

    Linear layers and norms see real tokens only; the decoder's attention sees padded rows.

    Args:
        facts: The vocabulary's size.
        width: D.
        heads: H, a divisor of D.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        feed_forward: Inner width of the feed-forward layers.
        dropout: On embeddings and on what each sublayer adds.
        max_length: The most tokens of a source or target.
        attention_dropout: On the probabilities of attention.
        activation_dropout: Inside feed-forward layers; None: as `dropout`.
        embeddings: Makes the embeddings, given `source_vocabulary`, `target_vocabulary` and `width`.
        positions: Makes the positions, given `width`, `heads` and `max_length`.
        norm: Makes each norm, given `width`.
        residual: Makes a residual connection, given `width`, `dropout` and `norm`.
        feed_forward_layer: Makes a feed-forward layer, given `width`, `feed_forward` and `dropout`.

    Raises:
        ConfigurationError: If the heads do not divide the width, the dropout is no probability below 1, or one of the
            parts does not fit.
    """

    def __init__(
        self,
        facts: Facts,
        width: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feed_forward: int,
        dropout: float,
        max_length: int,
        attention_dropout: float = 0.0,
        activation_dropout: float | None = None,
        embeddings: Callable[..., Embeddings] = SharedEmbeddings,
        positions: Callable[..., Positions] = Sinusoidal,
        norm: Norm = nn.LayerNorm,
        residual: Callable[..., Residual] = PreNorm,
        feed_forward_layer: Callable[..., nn.Module] = FeedForward,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.max_length, self.vocabulary = width, heads, max_length, facts.vocabulary
        source = facts.vocabulary if facts.source_vocabulary is None else facts.source_vocabulary
        self.embedding = embeddings(source_vocabulary=source, target_vocabulary=facts.vocabulary, width=width)
        if facts.source_vocabulary is not None and self.embedding.ONE_VOCABULARY:
            raise ConfigurationError(
                "source and target have vocabularies of their own, which cannot share an embedding; write "
                "model/embeddings=tied_output, or choose a tokenizer for both, such as tokenizer=bpe"
            )
        self.positions = positions(width=width, heads=heads, max_length=max_length)
        self.dropout = Dropout(dropout)
        attention = partial(SelfAttention, width, heads, dropout=attention_dropout, relative=self.positions.relative)
        cross = partial(CrossAttention, width, heads, attention_dropout)
        inside = dropout if activation_dropout is None else activation_dropout
        transform = partial(feed_forward_layer, width=width, feed_forward=feed_forward, dropout=inside)
        connect = partial(residual, width=width, dropout=dropout, norm=norm)
        self.encoder = nn.ModuleList(EncoderLayer(attention, transform, connect) for _ in range(encoder_layers))
        self.encoder_norm = connect().final_norm()
        self.memory = nn.Linear(width, 2 * decoder_layers * width)
        causal = partial(attention, causal=True)
        self.decoder = nn.ModuleList(DecoderLayer(causal, cross, transform, connect) for _ in range(decoder_layers))
        self.decoder_norm = connect().final_norm()
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights: embeddings with standard deviation D^-½, linear layers as Glorot and Bengio 2010."""
        for weight in self.embedding.parameters():
            nn.init.normal_(weight, std=self.width**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for layer in torch.split(self.memory.weight, 2 * self.width):
                nn.init.xavier_uniform_(layer)

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Its parts from the input to the output: embeddings, the encoder's layers, then the decoder's.

        The projection to the decoder's keys and values belongs to the encoder's last layer.
        """
        *below, last = self.encoder
        *above, top = self.decoder
        return [
            (self.embedding, self.positions),
            *((layer,) for layer in below),
            (last, self.encoder_norm, self.memory),
            *((layer,) for layer in above),
            (top, self.decoder_norm),
        ]

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from states to logits."""
        return self.embedding.output_weight

    @property
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """What is added to the logits; None: nothing."""
        return None

    def forward(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T V"]:
        """Return logits of the token after each target token; zeros at padding.

        Args:
            src: Source ids.
            tgt: Decoder inputs: bos, then the target.
            src_mask: True at real source tokens.
            tgt_mask: True at real decoder inputs.

        Raises:
            TooLongError: If a row has more than `max_length` real tokens.
        """
        states = self.hidden(src, tgt, src_mask, tgt_mask)
        return Unpadding.from_mask(tgt_mask).pad(F.linear(states, self.output_weight, self.output_bias))

    def hidden(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "N D"]:
        """Return the decoder's last states at the N real target positions. As `EncoderDecoder` says."""
        source, target = Unpadding.from_mask(src_mask), Unpadding.from_mask(tgt_mask)
        x, y = self.embed_both(src, tgt, source, target)
        memory = self.remember(x, source)
        for layer, keys_values in zip(self.decoder, memory.layers(), strict=True):
            y = layer(y, target, keys_values, memory.mask)
        return self.decoder_norm(y)

    def place(self, vectors: Float[Tensor, "N D"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return what the layers read: embeddings, scaled by √D (Vaswani et al. 2017, section 3.4), with positions."""
        return self.dropout(self.positions.embed(vectors * math.sqrt(self.width), positions))

    def embed_source(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return what the encoder reads."""
        return self.place(self.embedding.source(tokens), positions)

    def embed_target(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return what the decoder reads."""
        return self.place(self.embedding.target(tokens), positions)

    def embed_both(
        self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"], source: Unpadding, target: Unpadding
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
        """Return what encoder and decoder read of the real tokens."""
        vectors = self.embedding.both(source.pack(src), target.pack(tgt))
        x = self.place(vectors, torch.cat([source.positions, target.positions]))
        x, y = torch.split(x, [len(source.cells), len(target.cells)])
        return x, y

    def remember(self, x: Float[Tensor, "N D"], source: Unpadding) -> DecoderMemory:
        """Run the encoder on embedded source tokens and project its states to every decoder layer's keys and values."""
        for layer in self.encoder:
            x = layer(x, source)
        projected = source.pad(self.memory(self.encoder_norm(x)))
        heads = (len(self.decoder), 2, self.heads, self.width // self.heads)
        return DecoderMemory(torch.unflatten(projected, 2, heads), source.key_mask)

    def encode(self, src: Int[Tensor, "B S"], src_mask: Bool[Tensor, "B S"]) -> DecoderMemory:
        """Return what the decoder attends to of the source. As `EncoderDecoder` says."""
        source = Unpadding.from_mask(src_mask)
        return self.remember(self.embed_source(source.pack(src), source.positions), source)

    def start(self, memory: DecoderMemory) -> DecoderCache:
        """Return the cache before the first step: one row for each source sentence."""
        rows, _, layers, _, heads, width = memory.states.shape
        empty = memory.states.new_empty(rows, 0, 2, heads, width)
        sentences = torch.arange(rows, device=empty.device)
        return DecoderCache(memory, sentences, sentences, memory, (KeyValueCache(empty),) * layers, length=0)

    def step(self, tokens: Int[Tensor, " B"], cache: DecoderCache) -> tuple[Float[Tensor, "B V"], DecoderCache]:
        """Decode one position further. As `EncoderDecoder` says."""
        layout = Unpadding.from_mask(torch.ones_like(tokens, dtype=torch.bool).view(len(cache.groups), -1))
        past = tuple(layer.copy() for layer in cache.past)
        x = self.embed_target(tokens, tokens.new_full((1,), cache.length))
        for layer, seen, keys_values in zip(self.decoder, past, cache.row_memory.layers(), strict=True):
            x = cast(DecoderLayer, layer).step(x, layout, seen, keys_values, cache.row_memory.mask)
        logits = F.linear(self.decoder_norm(x), self.output_weight, self.output_bias)
        return logits, DecoderCache(
            cache.memory, cache.sentences, cache.groups, cache.row_memory, past, cache.length + 1
        )
