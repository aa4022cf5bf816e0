"""Optimizers whose updates others compute are used, stored and restored as any optimizer is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.checkpoints.checkpoint import read, snapshot, write
from etude.optim.adamw_8bit import AdamW8bit
from etude.optim.delegating import DelegatingOptimizer
from etude.optim.muon import Muon
from etude.optim.parameter_groups import build_optimizer

KINDS = (Muon, AdamW8bit)


@pytest.fixture(autouse=True)
def not_compiled() -> Iterator[None]:
    """Kernels of 8-bit moments take seconds each to be written; what they compute is the same without."""
    with torch.compiler.set_stance("force_eager"):
        yield


class Layers(nn.Module):
    """Matrices of layers, of which one is large enough for 8-bit moments, a head, and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 128), nn.Linear(128, 33)])
        self.head = nn.Linear(33, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs).tanh()
        return self.head(inputs)


def layers() -> Layers:
    torch.manual_seed(1)
    return Layers()


def gradients(network: Layers, step: int) -> Tensor:
    """Leave the gradients of a step, and return its loss."""
    network.zero_grad()
    inputs = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
    loss = (network(inputs) - inputs[:, :8].sin()).square().mean()
    loss.backward()
    return loss.detach()


def optimizer_of(kind: Callable[..., DelegatingOptimizer], network: Layers) -> DelegatingOptimizer:
    optimizer = build_optimizer(partial(kind, lr=0.01, weight_decay=0.1), network)
    assert isinstance(optimizer, DelegatingOptimizer)
    return optimizer


def trained(network: Layers, optimizer: DelegatingOptimizer, steps: range) -> None:
    for step in steps:
        gradients(network, step)
        optimizer.step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def stored(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is read of a state that was written to a checkpoint."""
    write(snapshot({"state_dict": {}, "optimizer_states": [state]}, 0), folder, {})
    return read(folder, torch.device("cpu"))["optimizer_states"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_stored_in_a_checkpoint_and_restored_it_goes_on_as_if_nothing_had_been(
    kind: Callable[..., DelegatingOptimizer], tmp_path: Path
) -> None:
    whole, stopped = layers(), layers()
    one, other = optimizer_of(kind, whole), optimizer_of(kind, stopped)
    trained(whole, one, range(6))
    trained(stopped, other, range(3))
    continued = copy.deepcopy(stopped)
    restored = optimizer_of(kind, continued)
    restored.load_state_dict(stored(other.state_dict(), tmp_path / "step-3"))
    trained(continued, restored, range(3, 6))
    assert equal(whole, continued)
    assert not equal(whole, stopped)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_gives_what_its_closure_returns(kind: Callable[..., DelegatingOptimizer]) -> None:
    network = layers()
    before = copy.deepcopy(network)
    loss = optimizer_of(kind, network).step(lambda: gradients(network, 0))
    assert torch.equal(torch.as_tensor(loss), gradients(before, 0))
    assert not equal(network, before)
