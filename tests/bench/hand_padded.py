"""Transformers on padded grids by hand, as nanoGPT writes one: plain torch, for devices where a grid without padding is fastest.

`hand_layers` is for CPUs; here dropout is torch's, attention is torch's, and all of it can be compiled. Rows are full, so there
is no mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Heads by torch's fused attention; self-attention has one product for query, key and value."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key_value, self.output = (nn.Linear(width, times * width) for times in (1, 2, 1))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        query, (key, value) = self.query(x), self.key_value(memory).chunk(2, dim=-1)
        query, key, value = (side.unflatten(2, (self.heads, -1)).transpose(1, 2) for side in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention where there is a memory, and feed-forward; norms before or after them."""

    def __init__(
        self, width: int, heads: int, dropout: float, *, causal: bool, cross: bool = False, post_norm: bool = False
    ) -> None:
        super().__init__()
        self.dropout, self.post_norm = dropout, post_norm
        self.attention = Attention(width, heads, causal=causal)
        self.cross_attention = Attention(width, heads, causal=False) if cross else None
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        x = self.add(x, 0, lambda states: self.attention(states, states))
        cross = self.cross_attention
        if cross is not None and memory is not None:
            x = self.add(x, 1, lambda states: cross(states, memory))
        return self.add(x, -1, lambda states: self.outer(F.gelu(self.inner(states))))

    def add(self, x: Tensor, norm: int, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """The residual connection."""
        if self.post_norm:
            return self.norms[norm](x + F.dropout(sublayer(x), self.dropout, self.training))
        return x + F.dropout(sublayer(self.norms[norm](x)), self.dropout, self.training)


class Embeddings(nn.Module):
    """Of tokens and of learned positions."""

    def __init__(self, vocabulary: int, width: int, length: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.positions, self.dropout = (
            nn.Embedding(vocabulary, width),
            nn.Embedding(length, width),
            dropout,
        )
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return F.dropout(self.tokens(tokens) + self.positions(positions), self.dropout, self.training)


class HandGPT(nn.Module):
    """GPT-2's shape; the output matrix is the embedding."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, length: int, dropout: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, width, length, dropout)
        self.layers = nn.ModuleList(Block(width, heads, dropout, causal=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def states(self, tokens: Tensor) -> Tensor:
        """The last hidden states."""
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The mean loss."""
        logits = F.linear(self.states(tokens), self.embeddings.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


class HandBERT(nn.Module):
    """BERT's shape with its head; logits at the chosen positions only."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, length: int, dropout: float) -> None:
        super().__init__()
        self.embeddings, self.first = Embeddings(vocabulary, width, length, 0.0), nn.LayerNorm(width)
        made = (Block(width, heads, dropout, causal=False, post_norm=True) for _ in range(layers))
        self.layers, self.dropout = nn.ModuleList(made), dropout
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Tensor, chosen: Tensor, labels: Tensor) -> Tensor:
        """The mean loss at the chosen places of the flattened grid."""
        x = F.dropout(self.first(self.embeddings(tokens)), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        features = self.norm(F.gelu(self.transform(x.flatten(0, 1).index_select(0, chosen))))
        return F.cross_entropy(F.linear(features, self.embeddings.tokens.weight, self.bias).float(), labels)


class HandSeq2Seq(nn.Module):
    """The base Transformer's shape; both sides and the output share one matrix."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, length: int, dropout: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, width, length, dropout)
        self.encoder = nn.ModuleList(Block(width, heads, dropout, causal=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, heads, dropout, causal=True, cross=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, source: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The mean label-smoothed loss."""
        memory, x = self.embeddings(source), self.embeddings(target)
        for layer in self.encoder:
            memory = layer(memory)
        memory = self.norms[0](memory)
        for layer in self.decoder:
            x = layer(x, memory)
        logits = F.linear(self.norms[1](x), self.embeddings.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=0.1)
