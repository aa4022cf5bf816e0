"""Sharding of a task's weights over the ranks that train it (FSDP2)."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

_STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def shard(task: nn.Module, ranks: DeviceMesh) -> None:
    """Shard all weights of a task, unless they are: each block of its stacks of layers by itself, then what is left.

    The weights of a block are gathered for as long as it computes, all others for the whole step. Tied weights must not
    be of two blocks.

    Args:
        task: The LightningModule, whose initial weights every rank has.
        ranks: The ranks, in one dimension.
    """
    if isinstance(task, FSDPModule):
        return
    for block in blocks(task):
        fully_shard(block, mesh=ranks)
    fully_shard(task, mesh=ranks)
    # A step computes with the weights of the task as its forward would.
    for name in _STEPS:
        register_fsdp_forward_method(task, name)


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the layers of every stack (`nn.ModuleList`) that have weights; of stacks in stacks, the outer layers."""
    found: list[nn.Module] = []
    within: set[int] = set()
    for stack in module.modules():
        if not isinstance(stack, nn.ModuleList) or id(stack) in within:
            continue
        for layer in stack:
            if not isinstance(layer, nn.ModuleList) and any(True for _ in layer.parameters()):
                found.append(layer)
                within.update(id(inner) for inner in layer.modules())
    return list(dict.fromkeys(found))
