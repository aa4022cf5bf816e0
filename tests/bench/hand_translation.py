"""An encoder-decoder, its training step and its beam search by hand: plain torch, nothing of etude (see `hand_layers`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tests.bench.hand_layers import Ids, Layer, Rows, cross_entropy


class HandTranslation(nn.Module):
    """One embedding for source, target and output; sines for positions; all layers' cross keys and values in one product."""

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 256,
        heads: int = 4,
        layers: int = 3,
        inner: int = 1024,
        dropout: float = 0.1,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.heads = width, heads

        def norm() -> nn.Module:
            return nn.Identity() if post_norm else nn.LayerNorm(width)

        def stack(decoder: bool) -> nn.ModuleList:
            made = (Layer(width, heads, inner, dropout, decoder=decoder, post_norm=post_norm) for _ in range(layers))
            return nn.ModuleList(made)

        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.encoder, self.encoder_norm = stack(decoder=False), norm()
        self.memory = nn.Linear(width, 2 * layers * width)
        self.decoder, self.decoder_norm = stack(decoder=True), norm()
        self.register_buffer("sines", _sines(256, width), persistent=False)
        self.register_buffer("no_bias", torch.zeros(vocabulary), persistent=False)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        vectors = self.sines[positions]  # type: ignore[index]
        return self.encoder[0].drop(self.embedding(tokens) * math.sqrt(self.width) + vectors)  # type: ignore[operator]

    def remember(self, x: Tensor, source: Rows) -> list[tuple[Tensor, Tensor]]:
        """Embedded source tokens to the keys and values of each decoder layer."""
        for layer in self.encoder:
            x = layer(x, source)
        grid = source.grid(self.memory(self.encoder_norm(x)))
        parts = grid.unflatten(2, (2 * len(self.decoder), self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def loss(self, source: Sequence[Ids], target: Sequence[Ids], bos: int, eos: int, smoothing: float) -> Tensor:
        """The sum of the smoothed cross-entropies of the targets and their ends."""
        sources = Rows.of([[*row, eos] for row in source])
        targets = Rows.of([[bos, *row] for row in target])
        labels = torch.from_numpy(np.concatenate([[*row, eos] for row in target]).astype(np.int64))
        # One look-up for both sides: the gradient of the embedding is made once.
        embedded = self.embed(*(torch.cat([getattr(sources, key), getattr(targets, key)]) for key in Rows._fields[:2]))
        x, y = embedded.split([len(sources.tokens), len(targets.tokens)])
        for layer, memory in zip(self.decoder, self.remember(x, sources), strict=True):
            y = layer(y, targets, *memory, sources.mask)
        return cross_entropy(self.decoder_norm(y), self.embedding.weight, self.no_bias, labels, smoothing)

    @torch.no_grad()
    def beam(self, source: Sequence[Ids], lengths: Tensor, bos: int, eos: int, beams: int, never_ends: bool) -> Tensor:
        """Search with cached keys and values; a row that is done leaves the batch.

        Args:
            source: Ids of each of R rows.
            lengths: [R] the most tokens of each row's translation.
            bos: The token to start from.
            eos: The token that ends a source, and a translation.
            beams: Hypotheses of each row.
            never_ends: Every translation is as long as `lengths` says.

        Returns:
            [R, longest] tokens of the best hypothesis by its log-probability, eos behind the end.
        """
        sources = Rows.of([[*row, eos] for row in source])
        mask = sources.mask
        memory = self.remember(self.embed(sources.tokens, sources.positions), sources)
        rows = torch.arange(len(source))
        best = torch.full((len(source), int(lengths.max())), eos)
        best_score = torch.full((len(source),), -math.inf)
        tokens = torch.full((len(source), beams, 1), bos)
        score = torch.full((len(source), beams), -math.inf).index_fill_(1, torch.tensor([0]), 0.0)
        past = [torch.empty(len(source) * beams, 0, 2, self.heads, self.width // self.heads) for _ in self.decoder]
        for length in range(1, int(lengths.max()) + 1):
            logits, past = self.next(tokens[:, :, -1], length - 1, past, memory, mask)
            grown = score[:, :, None] + logits.log_softmax(-1).view(*score.shape, -1)
            score, place = grown.flatten(1).topk(2 * beams)
            origin, token = place // grown.shape[2], place % grown.shape[2]
            if not never_ends:  # else eos is a token like any other
                ended = token == eos
                done, at = score[:, :beams].masked_fill(~ended[:, :beams], -math.inf).max(1)
                better = done > best_score[rows]
                best_score[rows[better]], best[rows[better]] = done[better], eos
                best[rows[better], : length - 1] = tokens[better, origin[better, at[better]], 1:]
                score = score.masked_fill(ended, -math.inf)
            score, alive = score.topk(beams)
            origin, token = origin.gather(1, alive), token.gather(1, alive)
            tokens = torch.cat([tokens.gather(1, origin[:, :, None].expand(-1, -1, length)), token[:, :, None]], 2)
            full = length == lengths[rows]
            unfinished = full & torch.isinf(best_score[rows])
            best[rows[unfinished], :length] = tokens[unfinished, 0, 1:]
            going = ~full & (score[:, 0] > best_score[rows])  # a longer hypothesis is never more probable
            if not going.any():
                break
            order = (origin + torch.arange(len(rows))[:, None] * beams)[going].flatten()
            past = [states[order] for states in past]
            if not going.all():
                memory = [(keys[going], values[going]) for keys, values in memory]
                mask = None if mask is None else mask[going]
            rows, tokens, score = rows[going], tokens[going], score[going]
        return best

    def next(
        self, last: Tensor, position: int, past: list[Tensor], memory: list[tuple[Tensor, Tensor]], mask: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits of the next token of each beam, and the keys and values so far."""
        beams = Rows(last, last, last, (last.shape[0], last.shape[1]), None)  # the queries of a sentence, side by side
        x = self.embed(last.flatten(), torch.tensor([position]))
        seen = []
        for index, (keys, values) in enumerate(memory):
            layer: Layer = self.decoder[index]  # type: ignore[assignment]

            def attend(states: Tensor, layer: Layer = layer, before: Tensor = past[index]) -> Tensor:
                query, *new = layer.qkv(states).unflatten(1, (3, self.heads, -1)).unbind(1)
                seen.append(torch.cat([before, torch.stack(new, 1)[:, None]], 1))
                key, value = seen[-1].transpose(1, 3).unbind(2)
                mixed = nn.functional.scaled_dot_product_attention(query[:, :, None], key, value)
                return layer.mixed(mixed.flatten(1))

            def cross(states: Tensor, layer: Layer = layer, memory: tuple[Tensor, Tensor] = (keys, values)) -> Tensor:
                return layer.cross_attention(states, beams, *memory, mask)

            x = layer.add(x, layer.norm, attend)
            x = layer.add(x, layer.cross_norm, cross)
            x = layer.add(x, layer.inner_norm, layer.feed_forward)
        return self.decoder_norm(x) @ self.embedding.weight.T, seen


def _sines(length: int, width: int) -> Tensor:
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
