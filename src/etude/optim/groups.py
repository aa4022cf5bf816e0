"""Which parameters weight decay holds down."""

from __future__ import annotations

from typing import Any

from torch import nn

from etude.errors import ConfigurationError


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer: matrices decay; biases and gains, which are vectors, do not.

    Args:
        module: The model, or what holds it. Frozen parameters are left out; a tied one counts once.
        weight_decay: Of the matrices.

    Returns:
        Groups as torch's optimizers take them, without empty ones. Parameters are in the order of their names, so the
        optimizer's state keeps its meaning however the model is assembled.

    Raises:
        ConfigurationError: If no parameter is trainable.
    """
    trainable = sorted((name, p) for name, p in module.named_parameters() if p.requires_grad)
    if not trainable:
        frozen = sum(1 for _ in module.parameters())
        raise ConfigurationError(
            f"all {frozen} parameters of {type(module).__name__} are frozen; let at least one train"
        )
    matrices = [parameter for _, parameter in trainable if parameter.dim() >= 2]
    vectors = [parameter for _, parameter in trainable if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
