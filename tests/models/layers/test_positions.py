"""Positions: the formula, worked by hand and element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from etude.errors import DataError
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.layers.positions import Learned, Sinusoidal
from etude.types import Facts


def test_sinusoidal_worked_by_hand() -> None:
    """With D = 4 the wavelengths are 2π and 2π 100."""
    table = Sinusoidal(width=4, max_length=3)(torch.arange(3))
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        [0.84147098, 0.54030231, 0.00999983, 0.99995000],
        [0.90929743, -0.41614684, 0.01999867, 0.99980001],
    ]
    torch.testing.assert_close(table, torch.tensor(expected), rtol=0, atol=1e-7)


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_is_the_papers_formula(width: int) -> None:
    table = Sinusoidal(width=width, max_length=301)(torch.arange(301))
    for position in (0, 1, 17, 300):
        for element in range(width):
            angle = position / 10_000 ** ((element - element % 2) / width)
            expected = math.cos(angle) if element % 2 else math.sin(angle)
            assert float(table[position, element]) == pytest.approx(expected, abs=1e-6)


def test_sinusoidal_has_nothing_to_save_or_train() -> None:
    module = Sinusoidal(width=4, max_length=3)
    assert not module.state_dict()
    assert not list(module.parameters())


@pytest.mark.parametrize("model", [Encoder, Decoder])
def test_sinusoids_are_as_large_as_new_embeddings(model: Callable[..., nn.Module]) -> None:
    """Where nothing multiplies the embeddings, unit sinusoids would drown them: such a model learnt next to nothing."""
    facts = Facts(vocabulary=1000, pad=0, bos=1, eos=2, mask=3)
    made = model(facts, width=64, heads=2, layers=1, feed_forward=8, dropout=0.0, max_length=50, positions=Sinusoidal)
    embeddings, sines = made.get_parameter("embedding.weight"), made.get_buffer("positions.table")
    assert float(sines.square().mean().sqrt()) == pytest.approx(float(embeddings.detach().std()), rel=0.02)


@pytest.mark.parametrize("kind", [Sinusoidal, Learned])
def test_positions_are_looked_up_in_any_order(kind: Callable[..., nn.Module]) -> None:
    module = kind(width=6, max_length=11)
    table, wanted = module(torch.arange(11)), torch.tensor([7, 0, 7, 10])
    assert torch.equal(module(wanted), table[wanted])


@pytest.mark.parametrize("kind", [Sinusoidal, Learned])
def test_a_position_too_many_is_refused_with_both_numbers(kind: Callable[..., nn.Module]) -> None:
    module = kind(width=6, max_length=11)
    assert module(torch.tensor([], dtype=torch.long)).shape == (0, 6)
    with pytest.raises(DataError, match=r"13 tokens .* model.max_length = 11; set model.max_length=13") as refusal:
        module(torch.tensor([3, 12]))
    assert isinstance(refusal.value, ValueError)
