"""Real tokens without their padding: linear layers, norms and losses see [N, D] instead of [B, L, D].

Axes: B examples, L positions, N real tokens of all examples, in the order of rows and then positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Unpadding:
    """Where the real tokens of a padded grid are.

    Attributes:
        mask: True at real tokens.
        cells: For each real token, its cell of the flattened grid.
        full: No padding at all: `pack` and `pad` are views.
    """

    mask: Bool[Tensor, "B L"]
    cells: Int[Tensor, " N"]
    full: bool

    @classmethod
    def from_mask(cls, mask: Bool[Tensor, "B L"]) -> Unpadding:
        """Find the real tokens. On a GPU this waits for the mask."""
        cells = mask.flatten().nonzero().squeeze(1)
        return cls(mask, cells, full=len(cells) == mask.numel())

    @cached_property
    def tokens(self) -> Int[Tensor, " cells"]:
        """For each cell of the flattened grid, its real token; at padding, a neighbour."""
        return (self.mask.flatten().cumsum(0) - 1).clamp_(min=0)

    @cached_property
    def padding(self) -> Int[Tensor, " padding"]:
        """The cells of the flattened grid that hold no token."""
        return (~self.mask).flatten().nonzero().squeeze(1)

    @cached_property
    def grid_positions(self) -> Int[Tensor, "B L"]:
        """The position of each real token among those of its row, from 0; at padding, that of the one before it."""
        return self.mask.cumsum(1) - 1

    @cached_property
    def positions(self) -> Int[Tensor, " N"]:
        """The position of each real token among those of its row, from 0."""
        return self.pack(self.grid_positions)

    @cached_property
    def starts(self) -> Int[Tensor, " B"]:
        """The first token of each row; no row is empty."""
        lengths = self.mask.sum(dim=1)
        return lengths.cumsum(0) - lengths

    @property
    def key_mask(self) -> Bool[Tensor, "B 1 1 L"] | None:
        """Which keys every query of a row may attend to; None where all may."""
        return None if self.full else self.mask[:, None, None, :]

    def pack(self, grid: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "N ..."]:
        """Return the values at real tokens."""
        return grid.flatten(0, 1) if self.full else _pack(grid.flatten(0, 1), self)

    def pad(self, packed: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "B L ..."]:
        """Return a grid with the values at real tokens and zeros at padding."""
        grid = packed if self.full else _pad(packed, self)
        return grid.view(*self.mask.shape, *grid.shape[1:])


@dataclass(frozen=True)
class DocumentUnpadding(Unpadding):
    """A layout of rows that several documents share, each of which is a text of its own.

    Positions begin anew with each document, and no token may attend to one of another. All tokens of a row still go
    through one product of attention: the scores across documents are computed and left out, so that a row of many
    short documents costs what one long document does.

    Attributes:
        documents: The document of each cell: any number, equal for the cells of a document, which follow each other.
            Padding, which stands at the end of a row, has a number of its own.
    """

    documents: Int[Tensor, "B L"]

    @classmethod
    def of(cls, mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"]) -> DocumentUnpadding:
        """Find the real tokens. On a GPU this waits for the mask."""
        plain = Unpadding.from_mask(mask)
        return cls(mask, plain.cells, plain.full, documents)

    @cached_property
    def grid_positions(self) -> Int[Tensor, "B L"]:
        """The position of each cell in its document, from 0."""
        cells = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.documents)
        begins = torch.ones_like(self.mask)
        begins[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        return cells - torch.where(begins, cells, 0).cummax(dim=1).values

    @cached_property
    def key_mask(self) -> Bool[Tensor, "B 1 L L"]:
        """Which keys each query of a row may attend to: those of its document."""
        return (self.documents[:, :, None] == self.documents[:, None, :])[:, None]


class _Pack(torch.autograd.Function):
    """Gathers rows. Each is taken once, so that the gradient is a gather too, not torch's slower scattered sum."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, layout: Unpadding) -> Tensor:
        ctx.layout = layout
        return cells.index_select(0, layout.cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _spread(gradient, ctx.layout), None


class _Pad(torch.autograd.Function):
    """The inverse of `_Pack`, and its gradient."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, layout: Unpadding) -> Tensor:
        ctx.layout = layout
        return _spread(packed, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.layout.cells), None


_pack: Callable[[Tensor, Unpadding], Tensor] = _Pack.apply
_pad: Callable[[Tensor, Unpadding], Tensor] = _Pad.apply


def _spread(packed: Shaped[Tensor, "N ..."], layout: Unpadding) -> Shaped[Tensor, "cells ..."]:
    if not len(packed):
        return packed.new_zeros(layout.mask.numel(), *packed.shape[1:])
    # Writes each cell once, unlike zeros followed by a copy: padding is a small part of a grid.
    return packed.index_select(0, layout.tokens).index_fill_(0, layout.padding, 0)
