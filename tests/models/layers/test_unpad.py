"""Packing and padding are inverses, and each is the other's gradient."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etude.models.layers.unpad import Unpadding


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    return torch.tensor(cells).view(rows, length)


@given(mask=masks())
def test_pad_is_the_right_inverse_of_pack(mask: Tensor) -> None:
    layout = Unpadding.from_mask(mask)
    packed = torch.randn(int(mask.sum()), 3, 2)
    assert torch.equal(layout.unpad(layout.pad(packed)), packed)


@given(mask=masks())
def test_pack_and_pad_are_what_indexing_does(mask: Tensor) -> None:
    layout, grid = Unpadding.from_mask(mask), torch.randn(*mask.shape, 3)
    assert torch.equal(layout.unpad(grid), grid[mask])
    assert torch.equal(layout.pad(layout.unpad(grid)), torch.where(mask[..., None], grid, 0.0))
    assert torch.equal(layout.positions, (mask.cumsum(1) - 1)[mask])


@given(mask=masks())
def test_each_is_the_gradient_of_the_other(mask: Tensor) -> None:
    layout = Unpadding.from_mask(mask)
    grid = torch.randn(*mask.shape, 3, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(int(mask.sum()), 3, dtype=torch.float64, requires_grad=True)
    grid_gradient, packed_gradient = torch.randn_like(grid), torch.randn_like(packed)
    assert torch.equal(torch.autograd.grad(layout.unpad(grid), grid, packed_gradient)[0], layout.pad(packed_gradient))
    assert torch.equal(torch.autograd.grad(layout.pad(packed), packed, grid_gradient)[0], layout.unpad(grid_gradient))


def test_without_padding_both_are_views() -> None:
    layout = Unpadding.from_mask(torch.ones(3, 5, dtype=torch.bool))
    grid, packed = torch.randn(3, 5, 2), torch.randn(15, 2)
    assert layout.full
    assert layout.key_mask is None
    assert layout.unpad(grid).data_ptr() == grid.data_ptr()
    assert layout.pad(packed).data_ptr() == packed.data_ptr()


def test_keys_at_padding_are_masked() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    key_mask = Unpadding.from_mask(mask).key_mask
    assert key_mask is not None
    assert key_mask.shape == (2, 1, 1, 3)
    assert torch.equal(key_mask[:, 0, 0], mask)
