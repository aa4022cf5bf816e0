"""Activation checkpointing: the layers of a model forget their activations, and compute them anew in the backward pass.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost": of each layer only its input stays, for a third more
computation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from etude.models.sharding import blocks


def recompute_activations(module: nn.Module) -> None:
    """Have each block of a module's stacks of layers recomputed in training; names, weights and results stay the same.

    Args:
        module: A model or a task; its blocks are those that would be sharded by themselves (see `blocks`).
    """
    for block in blocks(module):
        block.forward = partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Compute a block's output, and in training forget what its gradient will need."""
    if not (block.training and torch.is_grad_enabled()):
        return forward(*arguments, **named)
    # A block draws dropout from torch's generator: to draw the same again, the generator is set back and restored.
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=True, **named)
