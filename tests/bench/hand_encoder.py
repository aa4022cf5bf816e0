"""BERT for masked language modelling and for classification by hand: plain torch, nothing of etude (see `hand_layers`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bench.hand_layers import Ids, Layer, Rows, cross_entropy


class HandEncoder(nn.Module):
    """Learned positions and a norm on the embeddings; every layer ends in a norm."""

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        heads: int,
        layers: int,
        inner: int,
        dropout: float,
        max_length: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(max_length, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.norm = nn.LayerNorm(width, eps=eps)
        made = (Layer(width, heads, inner, dropout, decoder=False, post_norm=True, eps=eps) for _ in range(layers))
        self.layers = nn.ModuleList(made)
        for layer in self.layers:
            layer.activation = F.gelu  # type: ignore[assignment]
            layer.inside = 0  # type: ignore[assignment]

    def forward(self, rows: Rows) -> Tensor:
        """The last states of the N real tokens."""
        first: Layer = self.layers[0]  # type: ignore[assignment]
        x = first.drop(self.norm(self.embedding(rows.tokens) + self.positions(rows.positions)))
        for layer in self.layers:
            x = layer(x, rows)
        return x


class HandMaskedLM(nn.Module):
    """Logits at the chosen positions only; the output matrix is the embedding."""

    def __init__(self, encoder: HandEncoder) -> None:
        super().__init__()
        vocabulary, width = encoder.embedding.weight.shape
        self.encoder = encoder
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def loss(self, rows: Rows, chosen: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses at the chosen ones of the N real tokens."""
        hidden = self.norm(F.gelu(self.transform(self.encoder(rows).index_select(0, chosen))))
        return cross_entropy(hidden, self.encoder.embedding.weight, self.bias, labels, 0.0)


class HandClassifier(nn.Module):
    """One linear layer on the state of a text's first token."""

    def __init__(self, encoder: HandEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding.embedding_dim, classes)

    def loss(self, texts: Sequence[Ids], labels: Tensor) -> Tensor:
        """The sum of the losses of texts."""
        rows = Rows.of(texts)
        pooled = rows.grid(self.encoder(rows))[:, 0]
        first: Layer = self.encoder.layers[0]  # type: ignore[assignment]
        return F.cross_entropy(self.head(first.drop(pooled)), labels, reduction="sum")
