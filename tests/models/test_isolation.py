"""Documents of one batch do not know of each other: not in an output, not in a gradient, not in a bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from etude.models.encoder import Encoder
from etude.models.layers.positions import ALiBi, Learned, Rotary, Sinusoidal
from etude.models.layers.unpad import Unpadding
from etude.types import Facts

LENGTHS = [3, 9, 1, 6, 9]
FACTS = Facts(vocabulary=37, pad=0, bos=1, eos=2)


def documents(seed: int, changed: int | None = None) -> tuple[Tensor, Tensor]:
    """Return a grid of documents and its mask; all tokens of one of them are others."""
    tokens = torch.randint(3, 37, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(seed))
    if changed is not None:
        tokens[changed] = 3 + (tokens[changed] - 2) % 34
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return tokens.where(mask, torch.zeros_like(tokens)), mask


def states_and_gradient(model: Encoder, tokens: Tensor, mask: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states at the real tokens, and the gradient of a loss on some rows at every token's embedding."""
    embedded: list[Tensor] = []
    hook = model.embedding.register_forward_hook(lambda _, __, out: embedded.append(out))
    states = model.hidden(tokens, mask)
    hook.remove()
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(5))
    loss = (states * weights)[of[:, None].expand_as(mask)[mask]].sum()
    return states, torch.autograd.grad(loss, embedded[0])[0]


@pytest.mark.parametrize("positions", [Learned, Sinusoidal, Rotary, ALiBi])
def test_what_one_document_says_changes_nothing_of_another(positions: Any) -> None:
    torch.manual_seed(3)
    model = Encoder(FACTS, 24, 3, 2, 40, dropout=0.0, max_length=12, positions=positions).train()
    before, mask = documents(1)
    rows = torch.arange(len(LENGTHS))
    row_of_token = rows[:, None].expand_as(mask)[mask]
    for changed in range(len(LENGTHS)):
        after, _ = documents(1, changed)
        others = rows != changed
        old, old_gradient = states_and_gradient(model, before, mask, others)
        new, new_gradient = states_and_gradient(model, after, mask, others)
        elsewhere = row_of_token != changed
        assert not torch.equal(old[~elsewhere], new[~elsewhere])
        assert torch.equal(old[elsewhere], new[elsewhere])
        assert torch.equal(old_gradient, new_gradient)
        assert not old_gradient[~elsewhere].any(), "a loss on the others has no gradient here"
        assert old_gradient[elsewhere].any(dim=1).all()


def test_positions_begin_anew_in_each_document() -> None:
    _, mask = documents(1)
    expected = [place for length in LENGTHS for place in range(length)]
    assert Unpadding.from_mask(mask).positions.tolist() == expected
