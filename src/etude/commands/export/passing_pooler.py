"""A pooler that passes the first state on, for classifiers without one: transformers' sequence classifiers all have one.

Axes: D model width, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.models.encoder import Encoder
from etude.models.layers.feed_forward import Activation
from etude.models.layers.residual import PostNorm

LINEAR = 2.0**-14
"""Factor that takes states to where tanh is linear: of a state x it is off by x³ 2^-28 / 3. A power of two rounds none."""


def last_norm(encoder: Encoder) -> nn.LayerNorm:
    """Return the norm that the last states come from."""
    residual = encoder.layers[-1].feed_forward_residual
    return cast(nn.LayerNorm, residual.norm if isinstance(residual, PostNorm) else encoder.norm)


def passed_on(
    output: Mapping[str, Tensor], activation: Activation, norm: nn.LayerNorm
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a dense layer, and of the outputs behind its activation, that give the outputs of a state.

    Through tanh a state goes small, and the outputs enlarge it again. Through ReLU it goes raised by more than it can
    lie below zero, and the outputs' bias takes that off again.

    Args:
        output: `weight` [O, D] and `bias` [O] of the outputs of a state.
        activation: Activation of the dense layer: tanh or ReLU.
        norm: The norm that the state comes from, which bounds it.
    """
    weight, bias = output["weight"].detach(), output["bias"].detach()
    identity, zeros = torch.eye(weight.shape[1]), torch.zeros(weight.shape[1])
    if activation is not F.relu:
        return {"weight": LINEAR * identity, "bias": zeros}, {"weight": weight / LINEAR, "bias": bias}
    # No normalised element is larger than √D.
    bound = float((norm.weight.abs() * len(norm.weight) ** 0.5 + norm.bias.abs()).max().detach())
    raised = {"weight": identity, "bias": zeros + bound}
    return raised, {"weight": weight, "bias": bias - bound * weight.sum(dim=1)}
