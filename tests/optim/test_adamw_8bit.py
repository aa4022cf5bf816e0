"""AdamW with 8-bit moments is torchao's, learns as AdamW does, and takes a quarter of its memory."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from etude.errors import ConfigurationError
from etude.optim.adamw_8bit import AdamW8bit
from etude.optim.parameter_groups import build_optimizer


@pytest.fixture(autouse=True)
def not_compiled() -> Iterator[None]:
    """Kernels take seconds each to be written; what they compute is the same without."""
    with torch.compiler.set_stance("force_eager"):
        yield


def networks(count: int) -> list[nn.Sequential]:
    """Copies of a network with a matrix of 8-bit moments, one that is too small, one that blocks do not fit, and biases."""
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 33), nn.Tanh(), nn.Linear(33, 8))
    return [first, *(copy.deepcopy(first) for _ in range(count - 1))]


def gradients(network: nn.Module, step: int) -> Tensor:
    """Leave the gradients of a step, and return its loss."""
    network.zero_grad()
    inputs = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
    loss = (network(inputs) - inputs[:, :8].sin()).square().mean()
    loss.backward()
    return loss.detach()


def adamw_8bit(network: nn.Module) -> AdamW8bit:
    optimizer = build_optimizer(partial(AdamW8bit, lr=0.01, weight_decay=0.1), network)
    assert isinstance(optimizer, AdamW8bit)
    return optimizer


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_is_torchaos_optimizer_whose_rates_are_numbers() -> None:
    from torchao.optim import AdamW8bit as Theirs

    mine, theirs = networks(2)
    optimizer = adamw_8bit(mine)
    weights = dict(theirs.named_parameters())
    groups = [
        {"params": [w for name, w in sorted(weights.items()) if name.endswith("weight")], "weight_decay": 0.1},
        {"params": [w for name, w in sorted(weights.items()) if name.endswith("bias")], "weight_decay": 0.0},
    ]
    reference = Theirs(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-8)
    for step in range(5):
        for group, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
            group["lr"] = 0.01 / (step + 1)
            other["lr"].fill_(0.01 / (step + 1))
        gradients(mine, step)
        optimizer.step()
        gradients(theirs, step)
        reference.step()
        assert [type(group["lr"]) for group in optimizer.param_groups] == [float, float]
    assert equal(mine, theirs)


def test_it_learns_what_adamw_learns() -> None:
    mine, theirs = networks(2)
    pairs: list[tuple[nn.Module, Optimizer]] = [(mine, adamw_8bit(mine))]
    pairs.append((theirs, build_optimizer(partial(AdamW, lr=0.01, weight_decay=0.1), theirs)))
    first = gradients(mine, 0)
    losses = []
    for network, optimizer in pairs:
        for step in range(60):
            last = gradients(network, step)
            optimizer.step()
        losses.append(float(last))
    assert max(losses) < 0.3 * first
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_moments_of_large_matrices_take_a_quarter_of_the_memory() -> None:
    network = nn.Linear(256, 256, bias=False)
    network.weight.grad = torch.ones_like(network.weight)
    optimizer = adamw_8bit(network)
    optimizer.step()
    (state,) = optimizer.state_dict()["state"].values()
    taken = sum(tensor.nbytes for name in ("exp_avg", "exp_avg_sq") for tensor in state[name].values())
    assert taken < 0.26 * 2 * network.weight.nbytes


def test_without_torchao_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigurationError, match=r"optimizer=adamw_8bit needs torchao: pip install 'etude\[torchao\]'"):
        adamw_8bit(nn.Linear(2, 2))


def test_a_block_has_at_least_one_number() -> None:
    with pytest.raises(ConfigurationError, match="optimizer: block_size=0 is below 1"):
        build_optimizer(partial(AdamW8bit, block_size=0), nn.Linear(2, 2))


def test_sharded_weights_are_refused_before_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    (network,) = networks(1)
    optimizer = adamw_8bit(network)
    gradients(network, 0)
    before = copy.deepcopy(network)
    monkeypatch.setattr(network[0].weight, "to_local", lambda: None, raising=False)  # as a DTensor has
    with pytest.raises(ValueError, match="sharded over ranks"):
        optimizer.step()
    assert equal(network, before)
