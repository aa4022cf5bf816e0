"""Unpadding: linear layers, norms and losses see the real tokens [N, D] instead of a padded grid [B, L, D].

Axes: B rows, L positions, N real tokens of all rows, in the order of rows and then positions.
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
    """The places of the real tokens in a padded grid.

    Attributes:
        mask: True at real tokens.
        cells: Index of each real token's cell in the flattened grid.
        full: Whether the grid has no padding, so that `unpad` and `pad` are views.
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
        """Index of the real token in each cell of the flattened grid; at padding, that of a neighbour."""
        return (self.mask.flatten().cumsum(0) - 1).clamp_(min=0)

    @cached_property
    def padding(self) -> Int[Tensor, " padding"]:
        """Indices of the flattened grid's cells that hold no token."""
        return (~self.mask).flatten().nonzero().squeeze(1)

    @cached_property
    def grid_positions(self) -> Int[Tensor, "B L"]:
        """Position of each cell's token within its row, from 0; padding has the position of the token before it."""
        return self.mask.cumsum(1) - 1

    @cached_property
    def positions(self) -> Int[Tensor, " N"]:
        """Position of each real token within its row, from 0."""
        return self.unpad(self.grid_positions)

    @cached_property
    def starts(self) -> Int[Tensor, " B"]:
        """Index of each row's first token among the real tokens; no row may be empty."""
        lengths = self.mask.sum(dim=1)
        return lengths.cumsum(0) - lengths

    @property
    def key_mask(self) -> Bool[Tensor, "B 1 1 L"] | None:
        """True at the keys that every query of a row may attend to; None: all."""
        return None if self.full else self.mask[:, None, None, :]

    def complete(self) -> None:
        """Compute all of the above that layers ask for, since a compiler cannot trace what depends on the mask's values."""
        _ = self.tokens, self.padding, self.positions, self.starts, self.key_mask

    def unpad(self, grid: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "N ..."]:
        """Return the values at real tokens."""
        return grid.flatten(0, 1) if self.full else _unpad(grid.flatten(0, 1), self)

    def pad(self, unpadded: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "B L ..."]:
        """Return a grid with the values at real tokens and zeros at padding."""
        grid = unpadded if self.full else _pad(unpadded, self)
        return grid.view(*self.mask.shape, *grid.shape[1:])


@dataclass(frozen=True)
class DocumentUnpadding(Unpadding):
    """The layout of rows that hold several documents, each of which is a text of its own.

    Positions restart with each document, and no token attends to another document. All tokens of a row still go
    through one attention product: the scores across documents are computed and masked, so that a row of many short
    documents costs as much as one long document.

    Attributes:
        documents: Document of each cell: any number that is the same for all cells of a document, which are contiguous.
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
        """Position of each cell within its document, from 0."""
        cells = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.documents)
        begins = torch.ones_like(self.mask)
        begins[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        return cells - torch.where(begins, cells, 0).cummax(dim=1).values

    @cached_property
    def key_mask(self) -> Bool[Tensor, "B 1 L L"]:
        """True where query and key of a row belong to the same document."""
        return (self.documents[:, :, None] == self.documents[:, None, :])[:, None]


class _Unpad(torch.autograd.Function):
    """Gathers cells, each once, so that the gradient is a gather as well, not torch's slower scattered sum."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, layout: Unpadding) -> Tensor:
        ctx.layout = layout
        return cells.index_select(0, layout.cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _spread(gradient, ctx.layout), None


class _Pad(torch.autograd.Function):
    """The inverse of `_Unpad`, and its gradient."""

    @staticmethod
    def forward(ctx: Any, unpadded: Tensor, layout: Unpadding) -> Tensor:
        ctx.layout = layout
        return _spread(unpadded, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.layout.cells), None


_unpad: Callable[[Tensor, Unpadding], Tensor] = _Unpad.apply
_pad: Callable[[Tensor, Unpadding], Tensor] = _Pad.apply


def _spread(unpadded: Shaped[Tensor, "N ..."], layout: Unpadding) -> Shaped[Tensor, "cells ..."]:
    if not len(unpadded):
        return unpadded.new_zeros(layout.mask.numel(), *unpadded.shape[1:])
    # Writes each cell once, unlike zeros followed by a copy: padding is a small part of a grid.
    return unpadded.index_select(0, layout.tokens).index_fill_(0, layout.padding, 0)
