"""Rows that several documents share: each is a text of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from etude.models.layers.attention import SelfAttention
from etude.models.layers.relative_positions import LinearBias, Relative, Rotation
from etude.models.layers.unpad import DocumentUnpadding

WIDTH, HEADS = 12, 3
DOCUMENTS = torch.tensor([[4, 4, 4, 2, 2, 7, 7], [0, 1, 1, 1, 1, -1, -1]])
MASK = DOCUMENTS >= 0
PLACES = {(0, 4): [0, 1, 2], (0, 2): [3, 4], (0, 7): [5, 6], (1, 0): [0], (1, 1): [1, 2, 3, 4]}
"""(row, document) -> its cells."""


def test_positions_begin_anew_with_each_document() -> None:
    layout = DocumentUnpadding.of(MASK, DOCUMENTS)
    assert layout.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 0, 1, 2, 3]
    assert not layout.full


def test_a_key_is_seen_from_its_document_only() -> None:
    seen = DocumentUnpadding.of(MASK, DOCUMENTS).key_mask[:, 0]
    for (row, _), cells in PLACES.items():
        for cell in cells:
            assert seen[row, cell].nonzero().flatten().tolist() == cells


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("relative", [Relative(), Rotation(WIDTH // HEADS, 11), LinearBias(HEADS)])
def test_a_document_is_the_same_alone(causal: bool, relative: Relative) -> None:
    torch.manual_seed(1)
    attention = SelfAttention(WIDTH, HEADS, causal=causal, relative=relative)
    states = torch.randn(*MASK.shape, WIDTH)
    layout = DocumentUnpadding.of(MASK, DOCUMENTS)
    together = layout.pad(attention(layout.unpad(states), layout))
    for (row, _), cells in PLACES.items():
        alone = states[row, cells]
        whole = torch.ones(1, len(cells), dtype=torch.bool)
        own = DocumentUnpadding.of(whole, torch.zeros_like(whole, dtype=torch.long))
        torch.testing.assert_close(together[row, cells], attention(alone, own), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_no_bit_of_a_document_depends_on_another(causal: bool) -> None:
    """Outputs, and gradients of a sum of squares of one document's outputs, in every other document and out of it."""
    torch.manual_seed(2)
    attention = SelfAttention(WIDTH, HEADS, causal=causal)
    states = torch.randn(*MASK.shape, WIDTH)

    def outputs_and_gradients(states: Tensor, row: int, cells: list[int]) -> tuple[Tensor, Tensor]:
        layout, leaf = DocumentUnpadding.of(MASK, DOCUMENTS), states.clone().requires_grad_()
        outputs = layout.pad(attention(layout.unpad(leaf), layout))
        outputs[row, cells].square().sum().backward()
        assert leaf.grad is not None
        return outputs[row, cells].detach(), leaf.grad

    for (row, document), cells in PLACES.items():
        mine, gradient = outputs_and_gradients(states, row, cells)
        assert gradient[row, cells].abs().min() > 0
        gradient[row, cells] = 0
        assert gradient.count_nonzero() == 0
        changed = torch.where(torch.eq(DOCUMENTS, document)[..., None], states, states * 7 + 3)
        changed[1 - row] += 1
        again, changed_gradient = outputs_and_gradients(changed, row, cells)
        assert torch.equal(mine, again)
        changed_gradient[row, cells] = 0
        assert changed_gradient.count_nonzero() == 0
