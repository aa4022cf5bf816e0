"""The Transformer of Vaswani et al. (2017): encoder, decoder, and the decoder's caches.

Axes: B rows, G groups of rows, S source length, T target length, N real tokens, D model width, H heads, K head width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder
from etude.models.layers.attention import CrossAttention, SelfAttention
from etude.models.layers.dropout import Dropout
from etude.models.layers.embeddings import Embeddings, SharedEmbeddings
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.head_norm import HeadNorm
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.positions import Positions, Sinusoidal
from etude.models.layers.residual import Norm, PreNorm, Residual, start_at_zero
from etude.models.layers.unpad import Unpadding
from etude.models.losses.soft_cap import check_cap
from etude.types import Facts


@dataclass(frozen=True)
class DecoderMemory:
    """The encoded source: the cross-attention keys and values of every decoder layer, computed once.

    Attributes:
        states: Keys and values of each source position and layer.
        mask: True at real source tokens; None: all are real.
    """

    states: Float[Tensor, "B S layers 2 H K"]
    mask: Bool[Tensor, "B 1 1 S"] | None

    def layers(self) -> list[tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]]:
        """Return the keys and values of each layer: views, unbound at once so that their gradient is written once."""
        parts = self.states.transpose(1, 4).flatten(2, 3).unbind(2)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def select(self, rows: Int[Tensor, " R"]) -> DecoderMemory:
        """Return the memory of the given rows, in that order."""
        mask = None if self.mask is None else self.mask.index_select(0, rows)
        return DecoderMemory(self.states.index_select(0, rows), mask)


@dataclass(frozen=True)
class DecoderCache:
    """Cache between steps of decoding. It is immutable: every step returns a new cache.

    Attributes:
        memory: Encoded source of each sentence.
        sentences: Index of the sentence that each row translates.
        groups: Index of the sentence of each group of contiguous rows that translate it; all groups are equally large.
        row_memory: Encoded source of each group. Its rows are queries of one attention, so their memory exists once.
        past: Key-value cache of each decoder layer's self-attention.
        length: Number of target positions so far.
    """

    memory: DecoderMemory
    sentences: Int[Tensor, " B"]
    groups: Int[Tensor, " G"]
    row_memory: DecoderMemory
    past: tuple[KeyValueCache, ...]
    length: int

    def select(self, rows: Int[Tensor, " R"]) -> DecoderCache:
        """Return the cache of the given rows, in that order; rows may be repeated or left out."""
        sentences = self.sentences.index_select(0, rows)
        groups = equal_runs(sentences)
        # Beams mostly change places within their sentence, whose memory can then stay.
        same = torch.equal(groups, self.groups)
        row_memory = self.row_memory if same else self.memory.select(groups)
        past = tuple(layer.select(rows) for layer in self.past)
        return DecoderCache(self.memory, sentences, groups, row_memory, past, self.length)


def equal_runs(values: Int[Tensor, " B"]) -> Int[Tensor, " G"]:
    """Return the value of each run of equal values if all runs are equally long; else all values."""
    runs, lengths = torch.unique_consecutive(values, return_counts=True)
    return runs if len(runs) and bool((lengths == lengths[0]).all()) else values


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
        """Return the layer's output states."""
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
        """Return the output states of one new position in each row, whose keys and values are appended to `past`.

        The layout, memory and mask are those of the groups of rows that translate the same sentence.
        """
        x = self.self_residual(x, lambda states: self.self_attention.step(states, past))
        x = self.cross_residual(x, lambda states: self.cross_attention(states, layout, *memory, mask))
        return self.feed_forward_residual(x, self.feed_forward)


class Seq2Seq(EncoderDecoder):
    """Encoder and decoder with shared positions.

    Linear layers and norms see real tokens only; attention sees padded rows.

    Args:
        facts: The vocabulary sizes.
        width: D.
        heads: H, a divisor of D.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        feed_forward: Inner width of the feed-forward layers.
        dropout: Dropout rate of the embeddings and of each sublayer's output.
        max_length: Largest number of tokens in a source or a target.
        attention_dropout: Dropout rate of the attention probabilities.
        activation_dropout: Dropout rate inside feed-forward layers; None: as `dropout`.
        embeddings: Makes the embeddings, given `source_vocabulary`, `target_vocabulary` and `width`.
        positions: Makes the positions, given `width`, `heads` and `max_length`.
        norm: Makes each norm, given `width`.
        residual: Makes a residual connection, given `width`, `dropout` and `norm`.
        feed_forward_layer: Makes a feed-forward layer, given `width`, `feed_forward` and `dropout`.
        query_key_norm: Whether each head's queries and keys are normalised (see `HeadNorm`), also in attention to the source.
        logit_cap: Bound of the logits, by soft-capping (see `soft_cap`); None: none.
        zero_residual: Whether the last linear layer of each sublayer starts at zero (see `start_at_zero`).

    Raises:
        ConfigurationError: If the heads do not divide the width, the dropout rate is not a probability below 1, the cap is
            not above 0, or a part does not fit.
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
        query_key_norm: bool = False,
        logit_cap: float | None = None,
        zero_residual: bool = False,
    ) -> None:
        super().__init__()
        check_cap(logit_cap)
        self.logit_cap = logit_cap
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
        attention = partial(
            SelfAttention,
            width,
            heads,
            dropout=attention_dropout,
            relative=self.positions.relative,
            query_key_norm=query_key_norm,
        )
        cross = partial(CrossAttention, width, heads, attention_dropout, query_key_norm)
        inside = dropout if activation_dropout is None else activation_dropout
        transform = partial(feed_forward_layer, width=width, feed_forward=feed_forward, dropout=inside)
        connect = partial(residual, width=width, dropout=dropout, norm=norm)
        self.encoder = nn.ModuleList(EncoderLayer(attention, transform, connect) for _ in range(encoder_layers))
        self.encoder_norm = connect().final_norm()
        self.memory = nn.Linear(width, 2 * decoder_layers * width)
        # The keys of all layers are computed at once, and so is their norm.
        self.memory_norm = HeadNorm(width // heads, parts=decoder_layers) if query_key_norm else None
        causal = partial(attention, causal=True)
        self.decoder = nn.ModuleList(DecoderLayer(causal, cross, transform, connect) for _ in range(decoder_layers))
        self.decoder_norm = connect().final_norm()
        self.initialise()
        if zero_residual:
            start_at_zero([*self.encoder, *self.decoder])

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
        """The model's parts from input to output: embeddings, the encoder's layers, then the decoder's.

        The projection to the decoder's keys and values belongs to the encoder's last layer.
        """
        *below, last = self.encoder
        *above, top = self.decoder
        memory = (self.memory,) if self.memory_norm is None else (self.memory, self.memory_norm)
        return [
            (self.embedding, self.positions),
            *((layer,) for layer in below),
            (last, self.encoder_norm, *memory),
            *((layer,) for layer in above),
            (top, self.decoder_norm),
        ]

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from hidden states to logits."""
        return self.embedding.output_weight

    @property
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """None: the logits have no bias."""
        return None

    def hidden(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "N D"]:
        """Return the decoder's last hidden states at the N real target positions. See `EncoderDecoder.hidden`."""
        source, target = Unpadding.from_mask(src_mask), Unpadding.from_mask(tgt_mask)
        x, y = self.embed_both(src, tgt, source, target)
        memory = self.remember(x, source)
        for layer, keys_values in zip(self.decoder, memory.layers(), strict=True):
            y = layer(y, target, keys_values, memory.mask)
        return self.decoder_norm(y)

    def place(self, vectors: Float[Tensor, "N D"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the input of the layers: embeddings scaled by √D (Vaswani et al. 2017, section 3.4), with positions."""
        return self.dropout(self.positions.embed(vectors * math.sqrt(self.width), positions))

    def embed_source(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the encoder's input."""
        return self.place(self.embedding.source(tokens), positions)

    def embed_target(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the decoder's input."""
        return self.place(self.embedding.target(tokens), positions)

    def embed_both(
        self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"], source: Unpadding, target: Unpadding
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
        """Return the encoder's and the decoder's input at the real tokens."""
        vectors = self.embedding.both(source.unpad(src), target.unpad(tgt))
        x = self.place(vectors, torch.cat([source.positions, target.positions]))
        x, y = torch.split(x, [len(source.cells), len(target.cells)])
        return x, y

    def remember(self, x: Float[Tensor, "N D"], source: Unpadding) -> DecoderMemory:
        """Run the encoder on embedded source tokens and project its output to every decoder layer's keys and values."""
        for layer in self.encoder:
            x = layer(x, source)
        heads = (len(self.decoder), 2, self.heads, self.width // self.heads)
        states = torch.unflatten(self.memory(self.encoder_norm(x)), 1, heads)
        if self.memory_norm is not None:
            keys, values = states.unbind(2)
            states = torch.stack([self.memory_norm(keys), values], dim=2)
        return DecoderMemory(source.pad(states), source.key_mask)

    def encode(self, src: Int[Tensor, "B S"], src_mask: Bool[Tensor, "B S"]) -> DecoderMemory:
        """Encode the source into what the decoder attends to. See `EncoderDecoder.encode`."""
        source = Unpadding.from_mask(src_mask)
        return self.remember(self.embed_source(source.unpad(src), source.positions), source)

    def start(self, memory: DecoderMemory) -> DecoderCache:
        """Return an empty cache with one row for each source sentence."""
        rows, _, layers, _, heads, width = memory.states.shape
        empty = memory.states.new_empty(rows, 0, 2, heads, width)
        sentences = torch.arange(rows, device=empty.device)
        return DecoderCache(memory, sentences, sentences, memory, (KeyValueCache(empty),) * layers, length=0)

    def step(self, tokens: Int[Tensor, " B"], cache: DecoderCache) -> tuple[Float[Tensor, "B V"], DecoderCache]:
        """Decode one position further. See `EncoderDecoder.step`."""
        layout = Unpadding.from_mask(torch.ones_like(tokens, dtype=torch.bool).view(len(cache.groups), -1))
        past = tuple(layer.copy() for layer in cache.past)
        x = self.embed_target(tokens, tokens.new_full((1,), cache.length))
        for layer, keys_values, memory in zip(self.decoder, past, cache.row_memory.layers(), strict=True):
            x = cast(DecoderLayer, layer).step(x, layout, keys_values, memory, cache.row_memory.mask)
        return self.logits(self.decoder_norm(x)), DecoderCache(
            cache.memory, cache.sentences, cache.groups, cache.row_memory, past, cache.length + 1
        )
