"""Laws of dropout. Statistical bounds are six standard deviations wide, and the seeds are fixed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.layers.dropout import LEVELS, Dropout, keep_mask


def dropped(probability: float, x: Tensor, seed: int = 7) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = Dropout(probability).train()(x)
    return result


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.3, 0.5, 0.9, 255 / 256])
def test_rate_is_the_rounded_probability_and_the_mean_is_kept(probability: float) -> None:
    count = 400_003
    kept_rate = 1 - round(probability * LEVELS) / LEVELS
    out = dropped(probability, torch.ones(count))
    deviation = math.sqrt(kept_rate * (1 - kept_rate) / count)
    assert abs(float((out != 0).double().mean()) - kept_rate) < 6 * deviation
    assert abs(float(out.double().mean()) - 1) < 6 * deviation / kept_rate
    assert out.unique().tolist() == pytest.approx([0, 1 / kept_rate], rel=1e-6)


def test_elements_are_independent_whatever_their_distance_and_place_in_a_word() -> None:
    count = 800_000
    torch.manual_seed(3)
    centred = keep_mask(torch.Size([count]), 77).double() - (1 - 77 / 256)
    scale = float(centred.square().mean())
    for distance in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 64, 256, 1024, 4096):
        correlation = float((centred[distance:] * centred[:-distance]).mean()) / scale
        assert abs(correlation) < 6 / math.sqrt(count), distance


@pytest.mark.parametrize("levels", [1, 13, 128, 200, 255])
def test_every_byte_of_a_word_has_the_same_rate(levels: int) -> None:
    words = 100_000
    torch.manual_seed(5)
    rates = keep_mask(torch.Size([words, 8]), levels).double().mean(dim=0)
    share = levels / LEVELS
    assert float((rates - (1 - share)).abs().max()) < 6 * math.sqrt(share * (1 - share) / words)


def test_the_seed_decides() -> None:
    x = torch.randn(11, 13)
    assert torch.equal(dropped(0.3, x, seed=1), dropped(0.3, x, seed=1))
    assert not torch.equal(dropped(0.3, x, seed=1), dropped(0.3, x, seed=2))


def test_two_calls_differ() -> None:
    torch.manual_seed(1)
    layer, x = Dropout(0.5).train(), torch.ones(101)
    assert not torch.equal(layer(x), layer(x))


def test_evaluation_is_the_identity_and_draws_nothing() -> None:
    x = torch.randn(5, 3)
    state = torch.get_rng_state()
    assert Dropout(0.9).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3), (1,), (7, 11), (2, 3, 5)])
def test_the_gradient_has_the_mask_of_the_output(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.full(shape, 2.0, dtype=dtype, requires_grad=True)
    out = dropped(0.4, x)
    out.backward(torch.full_like(out, 4.0))
    assert x.grad is not None
    assert x.grad.dtype == out.dtype == dtype
    assert torch.equal(x.grad / 4, out.detach() / 2)


def test_a_strided_input_is_dropped_as_its_copy() -> None:
    x = torch.randn(7, 5).T
    assert torch.equal(dropped(0.4, x), dropped(0.4, x.contiguous()))


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5])
def test_an_impossible_probability_is_refused(probability: float) -> None:
    with pytest.raises(ConfigurationError, match=f"dropout = {probability}"):
        Dropout(probability)
