"""The Transformer from sequence to sequence (Vaswani et al. 2017), from its decoder's layer to the whole.

Axes: B rows, G groups of rows, S source length, T target length, N real tokens, D model width, H heads, K head width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.nn.attention import CrossAttention, KeyValues, SelfAttention
from etude.nn.dropout import Dropout
from etude.nn.encoder_layer import EncoderLayer
from etude.nn.feed_forward import Activation, FeedForward
from etude.nn.packing import Layout
from etude.nn.positions import Sinusoidal
from etude.nn.residual import PreNorm, Residual
from etude.types import Facts


@dataclass(frozen=True)
class Memory:
    """What the decoder's layers attend to of the source: keys and values of every layer, computed once.

    Attributes:
        states: For each source position and layer, its keys and its values.
        mask: True at real source tokens; None where all are.
    """

    states: Float[Tensor, "B S layers 2 H K"]
    mask: Bool[Tensor, "B 1 1 S"] | None

    def layers(self) -> list[tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]]:
        """Return the keys and values of each layer: views, taken together so that their gradient is written once."""
        parts = self.states.transpose(1, 4).flatten(2, 3).unbind(2)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def select(self, rows: Int[Tensor, " R"]) -> Memory:
        """Return the memory of the given rows, in that order."""
        mask = None if self.mask is None else self.mask.index_select(0, rows)
        return Memory(self.states.index_select(0, rows), mask)


@dataclass(frozen=True)
class Cache:
    """What one step of decoding leaves for the next. It is never changed: every step returns a new one.

    Attributes:
        memory: Of each source sentence.
        sentences: Which sentence each row translates.
        groups: Rows that follow each other and translate one sentence; all groups have the same number of rows.
        row_memory: Of each group. Its rows are the queries of one attention: their memory exists once.
        past: The keys and values of each decoder layer's self-attention so far.
        length: Target positions so far.
    """

    memory: Memory
    sentences: Int[Tensor, " B"]
    groups: Int[Tensor, " G"]
    row_memory: Memory
    past: tuple[KeyValues, ...]
    length: int

    def select(self, rows: Int[Tensor, " R"]) -> Cache:
        """Return the cache of the given rows, in that order; a row may be repeated or left out."""
        sentences = self.sentences.index_select(0, rows)
        groups = equal_runs(sentences)
        # Beams mostly change places within their sentence, whose memory then stays where it is.
        same = torch.equal(groups, self.groups)
        row_memory = self.row_memory if same else self.memory.select(groups)
        past = tuple(layer.select(rows) for layer in self.past)
        return Cache(self.memory, sentences, groups, row_memory, past, self.length)


def equal_runs(values: Int[Tensor, " B"]) -> Int[Tensor, " G"]:
    """Return the value of each run of equal ones where all runs are equally long; else every value as it is."""
    runs, lengths = torch.unique_consecutive(values, return_counts=True)
    return runs if len(runs) and bool((lengths == lengths[0]).all()) else values


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, and feed-forward, each with its residual connection.

    Args:
        width: D.
        heads: H.
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
        self.self_attention = SelfAttention(width, heads, causal=True)
        self.self_residual = residual(width=width, dropout=dropout)
        self.cross_attention = CrossAttention(width, heads)
        self.cross_residual = residual(width=width, dropout=dropout)
        self.feed_forward = FeedForward(width, feed_forward, dropout, activation)
        self.feed_forward_residual = residual(width=width, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        layout: Layout,
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
        layout: Layout,
        past: KeyValues,
        memory: tuple[Float[Tensor, "G H S K"], Float[Tensor, "G H S K"]],
        mask: Bool[Tensor, "G 1 1 S"] | None,
    ) -> Float[Tensor, "B D"]:
        """Return the next layer's states of one new position in each row, whose keys and values join `past`.

        The layout, memory and mask are those of groups of rows that translate one sentence.
        """
        x = self.self_residual(x, lambda states: self.self_attention.step(states, past))
        x = self.cross_residual(x, lambda states: self.cross_attention(states, layout, *memory, mask))
        return self.feed_forward_residual(x, self.feed_forward)


class Seq2Seq(nn.Module):
    """Encoder and decoder over one vocabulary: source, target and output share one matrix, both sides the positions.

    Linear layers and norms see real tokens only; the decoder's attention sees padded rows.

    Args:
        facts: The vocabulary's size.
        width: D.
        heads: H, a divisor of D.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        feed_forward: Inner width of the feed-forward layers.
        dropout: On embeddings, in feed-forward layers and on what each sublayer adds.
        max_length: The most tokens of a source or target.
        positions: Makes the positions' vectors, given `width` and `max_length`.
        residual: Makes a residual connection, given `width` and `dropout`.
        activation: Of the feed-forward layers.

    Raises:
        ConfigurationError: If the heads do not divide the width, or the dropout is no probability below 1.
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
        positions: Callable[..., nn.Module] = Sinusoidal,
        residual: Callable[..., Residual] = PreNorm,
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.max_length, self.vocabulary = width, heads, max_length, facts.vocabulary
        layer = (width, heads, feed_forward, dropout, residual, activation)
        self.embedding = nn.Embedding(facts.vocabulary, width)
        self.positions = positions(width=width, max_length=max_length)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.encoder_norm = residual(width=width, dropout=dropout).final_norm()
        self.memory = nn.Linear(width, 2 * decoder_layers * width)
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder_layers))
        self.decoder_norm = residual(width=width, dropout=dropout).final_norm()
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights: the embedding with standard deviation D^-½, linear layers as Glorot and Bengio 2010."""
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)
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
        """The matrix from states to logits: the embedding itself (Press and Wolf 2017)."""
        return self.embedding.weight

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
        return Layout.from_mask(tgt_mask).pad(F.linear(states, self.output_weight, self.output_bias))

    def hidden(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "N D"]:
        """Return the decoder's last states at the N real target positions, in the order of `tgt[tgt_mask]`.

        Takes and raises what `forward` does.
        """
        source, target = Layout.from_mask(src_mask), Layout.from_mask(tgt_mask)
        x, y = self.embed_both(src, tgt, source, target)
        memory = self.remember(x, source)
        for layer, keys_values in zip(self.decoder, memory.layers(), strict=True):
            y = layer(y, target, keys_values, memory.mask)
        return self.decoder_norm(y)

    def embed(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the embeddings, scaled by √D (Vaswani et al. 2017, section 3.4), plus the vectors of positions."""
        return self.dropout(self.embedding(tokens) * math.sqrt(self.width) + self.positions(positions))

    def embed_target(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return what `embed` does, for the decoder's inputs."""
        return self.embed(tokens, positions)

    def embed_both(
        self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"], source: Layout, target: Layout
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
        """Return the embedded real tokens of both sides."""
        # One look-up for both sides: the gradient of the embedding, a matrix of V x D, is written once.
        tokens = torch.cat([source.pack(src), target.pack(tgt)])
        x = self.embed(tokens, torch.cat([source.positions, target.positions]))
        x, y = torch.split(x, [len(source.cells), len(target.cells)])
        return x, y

    def remember(self, x: Float[Tensor, "N D"], source: Layout) -> Memory:
        """Run the encoder on embedded source tokens and project its states to every decoder layer's keys and values."""
        for layer in self.encoder:
            x = layer(x, source)
        projected = source.pad(self.memory(self.encoder_norm(x)))
        heads = (len(self.decoder), 2, self.heads, self.width // self.heads)
        return Memory(torch.unflatten(projected, 2, heads), source.key_mask)

    def encode(self, src: Int[Tensor, "B S"], src_mask: Bool[Tensor, "B S"]) -> Memory:
        """Return what the decoder attends to of the source.

        Args:
            src: Source ids.
            src_mask: True at real source tokens.

        Raises:
            TooLongError: If a row has more than `max_length` real tokens.
        """
        source = Layout.from_mask(src_mask)
        return self.remember(self.embed(source.pack(src), source.positions), source)

    def start(self, memory: Memory) -> Cache:
        """Return the cache before the first step: one row for each source sentence."""
        rows, _, layers, _, heads, width = memory.states.shape
        empty = memory.states.new_empty(rows, 0, 2, heads, width)
        sentences = torch.arange(rows, device=empty.device)
        return Cache(memory, sentences, sentences, memory, (KeyValues(empty),) * layers, length=0)

    def step(self, tokens: Int[Tensor, " B"], cache: Cache) -> tuple[Float[Tensor, "B V"], Cache]:
        """Decode one position further.

        Args:
            tokens: The last token of each row, bos at first.
            cache: What the step before returned, or `start`.

        Returns:
            Logits of the next token, and the cache for the next step.

        Raises:
            TooLongError: If that is more than `max_length` positions.
        """
        layout = Layout.from_mask(torch.ones_like(tokens, dtype=torch.bool).view(len(cache.groups), -1))
        past = tuple(layer.copy() for layer in cache.past)
        x = self.embed_target(tokens, tokens.new_full((1,), cache.length))
        for layer, seen, keys_values in zip(self.decoder, past, cache.row_memory.layers(), strict=True):
            x = cast(DecoderLayer, layer).step(x, layout, seen, keys_values, cache.row_memory.mask)
        logits = F.linear(self.decoder_norm(x), self.output_weight, self.output_bias)
        return logits, Cache(cache.memory, cache.sentences, cache.groups, cache.row_memory, past, cache.length + 1)
