"""What a patient person writes by hand for a fast Transformer on a CPU: plain torch, nothing of etude.

- real tokens only in linear layers and norms; a padded grid exists inside attention alone;
- query, key and value in one product;
- dropout decided by 8 random bits for each element, all of them independent;
- cross-entropy in chunks of positions, whose gradient is made in the forward pass;
- batches of like length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bench.rounds import Stopwatch, Work

Ids = Sequence[int] | np.ndarray


class Rows(NamedTuple):
    """Rows of different lengths, without their padding.

    `tokens` and `positions` are those of the N real tokens; `cells` says where each stands in the padded grid of `shape`,
    and `mask`, for attention, where there is one: None if no row is padded.
    """

    tokens: Tensor
    positions: Tensor
    cells: Tensor
    shape: tuple[int, int]
    mask: Tensor | None

    @classmethod
    def of(cls, rows: Sequence[Ids]) -> Rows:
        lengths = np.array([len(row) for row in rows])
        real = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.concatenate([np.asarray(row) for row in rows]).astype(np.int64)
        positions = np.broadcast_to(np.arange(lengths.max()), real.shape)[real]
        mask = None if real.all() else torch.from_numpy(real)[:, None, None, :]
        cells = torch.from_numpy(np.flatnonzero(real))
        return cls(torch.from_numpy(tokens), torch.from_numpy(positions), cells, (len(rows), real.shape[1]), mask)

    def grid(self, packed: Tensor) -> Tensor:
        """[N, …] to [B, L, …], zeros at padding."""
        grid = packed if self.mask is None else _to_grid(packed, self.cells, self.shape[0] * self.shape[1])
        return grid.unflatten(0, self.shape)

    def packed(self, grid: Tensor) -> Tensor:
        """[B, L, …] to [N, …]."""
        flat = grid.flatten(0, 1)
        return flat if self.mask is None else _from_grid(flat, self.cells)


class _ToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, cells: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(cells)
        return packed.new_zeros(size, *packed.shape[1:]).index_copy_(0, cells, packed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, *ctx.saved_tensors), None, None


class _FromGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.size = len(grid)
        return grid.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.size, *gradient.shape[1:]).index_copy_(0, cells, gradient), None


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        # A byte from `levels` on keeps its element. Saturating to two neighbours compares faster than >= does.
        keep = words.view(torch.uint8)[: x.numel()].clamp_(levels - 1, levels).sub_(levels - 1).view_as(x)
        ctx.save_for_backward(keep)
        ctx.scale = 256 / (256 - levels)
        return keep.to(x.dtype).mul_(ctx.scale).mul_(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return keep.to(gradient.dtype).mul_(ctx.scale).mul_(gradient), None


class _CrossEntropy(torch.autograd.Function):
    """Sum of the label-smoothed cross-entropies of logits x Wᵀ + b; Σ_v z_v = x · Σ_v W_v + Σ_v b_v needs no logits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        x_gradient, weight_gradient, bias_gradient = (
            torch.empty_like(x),
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )
        share = smoothing / len(weight)
        total = -share * (x.sum(0) @ weight.sum(0) + len(x) * bias.sum())
        for start in range(0, len(x), 512):
            part, gold = x[start : start + 512], labels[start : start + 512, None]
            logits = torch.addmm(bias, part, weight.T)
            largest = logits.amax(1)
            total = total + largest.sum() - (1 - smoothing) * logits.gather(1, gold).sum()
            torch.softmax(logits, 1, out=logits)
            total = total - logits.amax(1).log().sum()
            logits.scatter_add_(1, gold, torch.full_like(gold, smoothing - 1, dtype=x.dtype))
            torch.mm(logits, weight, out=x_gradient[start : start + 512])
            weight_gradient.addmm_(logits.T, part)
            bias_gradient += logits.sum(0)
        x_gradient -= share * weight.sum(0)
        weight_gradient -= share * x.sum(0)
        ctx.save_for_backward(x_gradient, weight_gradient, bias_gradient - share * len(x))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return *(ready * gradient for ready in ctx.saved_tensors), None, None


_to_grid: Callable[..., Tensor] = _ToGrid.apply
_from_grid: Callable[..., Tensor] = _FromGrid.apply
_drop: Callable[..., Tensor] = _Drop.apply
cross_entropy: Callable[..., Tensor] = _CrossEntropy.apply


class Layer(nn.Module):
    """A layer of an encoder or, with cross-attention, of a decoder."""

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float, *, decoder: bool, post_norm: bool, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.heads, self.levels = heads, round(256 * dropout)
        self.inside = self.levels  # inside the feed-forward layer, where BERT has none
        self.causal, self.post_norm = decoder, post_norm
        self.activation: Callable[[Tensor], Tensor] = F.relu
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        if decoder:
            self.cross_query, self.cross_mixed = nn.Linear(width, width), nn.Linear(width, width)
            self.cross_norm = nn.LayerNorm(width, eps=eps)
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        self.inner_norm = nn.LayerNorm(width, eps=eps)

    def drop(self, x: Tensor, levels: int | None = None) -> Tensor:
        levels = self.levels if levels is None else levels
        return _drop(x, levels) if self.training and levels else x

    def add(self, x: Tensor, norm: nn.LayerNorm, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """The residual connection."""
        if self.post_norm:
            return norm(x + self.drop(sublayer(x)))
        return x + self.drop(sublayer(norm(x)))

    def self_attention(self, x: Tensor, rows: Rows) -> Tensor:
        query, key, value = rows.grid(self.qkv(x)).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        # Padding is at the end, so a causal query never sees any.
        mask = None if self.causal else rows.mask
        mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal)
        return self.mixed(rows.packed(mixed.transpose(1, 2).flatten(2)))

    def cross_attention(self, x: Tensor, rows: Rows, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        query = rows.grid(self.cross_query(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, keys, values, mask)
        return self.cross_mixed(rows.packed(mixed.transpose(1, 2).flatten(2)))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.outer(self.drop(self.activation(self.inner(x)), self.inside))

    def forward(self, x: Tensor, rows: Rows, *memory: Any) -> Tensor:
        x = self.add(x, self.norm, lambda states: self.self_attention(states, rows))
        if memory:
            x = self.add(x, self.cross_norm, lambda states: self.cross_attention(states, rows, *memory))
        return self.add(x, self.inner_norm, self.feed_forward)


def copy_weights(mine: nn.Module, theirs: nn.Module) -> None:
    """Load the weights of a model that declares the same tensors in the same order."""
    tensors = theirs.state_dict().values()
    mine.load_state_dict(dict(zip(mine.state_dict(), tensors, strict=True)))


def by_length(lengths: np.ndarray, tokens: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of about so many tokens and of like length, in random order, without end.

    Args:
        lengths: [N] or [N, sides].
        tokens: Of all sides together.
        rng: Breaks ties of length, and shuffles.
    """
    sides = lengths.reshape(len(lengths), -1)
    while True:
        order = np.lexsort((rng.random(len(sides)), *sides.T[::-1]))
        spent = sides[order].sum(axis=1).cumsum()
        batches = np.split(order, np.searchsorted(spent, np.arange(tokens, spent[-1], tokens)))
        rng.shuffle(batches)
        yield from (batch for batch in batches if len(batch))


Step = Callable[[np.ndarray], tuple[Tensor, float, float]]
"""Examples to the sum of their losses, what it is divided by, and the units of work."""


class Loop:
    """The training loop: fused AdamW and the gradient's norm clipped to 1.

    Args:
        model: What is trained.
        step: Makes the loss of a batch.
        batches: Examples of each batch, without end.
        lr: The learning rate.
    """

    def __init__(self, model: nn.Module, step: Step, batches: Iterator[np.ndarray], lr: float) -> None:
        self.model, self.step, self.batches = model.train(), step, batches
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), fused=True)

    def round(self, seconds: float) -> Work:
        """Train for some seconds."""
        watch = Stopwatch(seconds)
        for examples in self.batches:
            total, count, units = self.step(examples)
            loss = total / count
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if watch.over(units, loss.item()):
                break
        return watch.work
