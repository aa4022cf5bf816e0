"""The feed-forward layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from etude.models.layers.feed_forward import Activation, FeedForward, GatedFeedForward


def test_it_is_two_linear_layers_around_the_activation() -> None:
    layer, x = FeedForward(3, 5, dropout=0.0, activation=F.gelu), torch.randn(7, 3)
    torch.testing.assert_close(
        layer(x), F.gelu(x @ layer.inner.weight.T + layer.inner.bias) @ layer.outer.weight.T + layer.outer.bias
    )


def test_what_is_dropped_is_between_the_layers() -> None:
    layer, x = FeedForward(3, 4001, dropout=0.5).train(), torch.ones(1, 3)
    torch.nn.init.ones_(layer.inner.weight)
    seen: list[torch.Tensor] = []
    layer.outer.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    layer(x)
    assert 0.4 < float((seen[0] == 0).double().mean()) < 0.6


@pytest.mark.parametrize("activation", [torch.sigmoid, F.relu, F.gelu, F.silu])
def test_a_gate_lets_through(activation: Activation) -> None:
    layer, x = GatedFeedForward(3, 5, dropout=0.0, activation=activation), torch.randn(7, 3)
    gate, inner = (x @ part.weight.T + part.bias for part in (layer.gate, layer.inner))
    torch.testing.assert_close(layer(x), (activation(gate) * inner) @ layer.outer.weight.T + layer.outer.bias)


def test_two_thirds_of_the_inner_width_cost_what_the_plain_layer_costs() -> None:
    plain, gated = FeedForward(96, 384, 0.0), GatedFeedForward(96, 256, 0.0)
    sizes = [sum(weight.numel() for weight in layer.parameters() if weight.dim() == 2) for layer in (plain, gated)]
    assert sizes[0] == sizes[1]
