"""A pooler that passes a state on: the outputs behind it are those of the state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude.commands.export.passing_pooler import passed_on


@pytest.mark.parametrize("activation", [torch.tanh, F.relu])
@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_outputs_are_those_of_the_state(activation: Any, size: float) -> None:
    torch.manual_seed(2)
    norm = nn.LayerNorm(24)
    nn.init.normal_(norm.weight, std=size)
    nn.init.normal_(norm.bias, std=size)
    states = norm(torch.randn(500, 24) * torch.randn(500, 24)).detach()
    output = {"weight": torch.randn(3, 24) / 5, "bias": torch.randn(3)}
    dense, outer = passed_on(output, activation, norm)
    passed = F.linear(activation(F.linear(states, **dense)), **outer)
    torch.testing.assert_close(passed, F.linear(states, **output), rtol=0, atol=5e-5)
    assert size < 1 or not torch.allclose(F.linear(activation(states), **output), passed, atol=1e-2)
