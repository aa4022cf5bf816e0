"""Which parts of a model are sharded by themselves."""

from __future__ import annotations

from torch import nn

from etude.models.sharding import blocks


def test_a_block_is_a_layer_of_a_stack() -> None:
    inner = nn.ModuleList([nn.Linear(2, 2)])
    layer = nn.Sequential(nn.Linear(2, 2), inner)
    model = nn.ModuleDict({"layers": nn.ModuleList([layer, nn.ReLU(), nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
    (stack,) = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 3]
    assert blocks(model) == [layer, stack[2]]  # the inner stack is part of its layer; ReLU has no weights


def test_a_layer_that_stands_twice_and_stacks_of_stacks() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleList([nn.ModuleList([shared, shared]), nn.ModuleList([nn.Linear(2, 2)])])
    assert len(blocks(model)) == 2
    assert blocks(nn.Linear(2, 2)) == []
