"""Soft-capping of logits (Gemma Team 2024, "Gemma 2", section 2): z becomes cap tanh(z / cap), which is inside ±cap."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from etude.errors import ConfigurationError


def check_cap(cap: float | None) -> None:
    """Refuse a cap that is no bound.

    Raises:
        ConfigurationError: If the cap is not above 0, or not finite.
    """
    if cap is not None and not 0 < cap < math.inf:
        raise ConfigurationError(f"model.logit_cap = {cap} is out of range; write more than 0, such as 30, or null")


def soft_cap(logits: Float[Tensor, "*shape"], cap: float | None) -> Float[Tensor, "*shape"]:
    """Return the capped logits, in single precision or better; without a cap, the logits themselves."""
    if cap is None:
        return logits
    # Near the cap, large logits lie so close together that 16 bits could not tell them apart.
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / cap).tanh() * cap


def soft_cap_in_place(logits: Float[Tensor, "*shape"], cap: float) -> Float[Tensor, "*shape"]:
    """Cap logits in place, and return the derivative of each capped logit, 1 - tanh²(z / cap)."""
    bounded = logits.div_(cap).tanh_()
    slopes = 1 - bounded.square()
    bounded.mul_(cap)
    return slopes
