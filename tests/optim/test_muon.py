"""Muon beside AdamW is what torch's two optimizers are, each by itself."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from etude.config.compose import compose
from etude.optim.muon import Muon
from etude.optim.parameter_groups import build_optimizer, hidden_matrices
from etude.training.build import factory
from etude.types import Facts

FACTS = Facts(vocabulary=97, pad=0, bos=1, eos=2, mask=3, classes=("a", "b"))


class Network(nn.Module):
    """An embedding, two layers with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 6), nn.LayerNorm(6)) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.embedding(tokens)
        for layer in self.layers:
            states = states + layer(states).tanh()
        return self.head(states)


def gradients(network: Network, step: int) -> None:
    """Leave the gradients of a step."""
    network.zero_grad()
    tokens = torch.randint(0, 11, (5, 7), generator=torch.Generator().manual_seed(step))
    network(tokens).square().mean().backward()


def networks(count: int) -> list[Network]:
    torch.manual_seed(1)
    first = Network()
    return [first, *(copy.deepcopy(first) for _ in range(count - 1))]


def muon(network: Network) -> Muon:
    optimizer = build_optimizer(partial(Muon, lr=0.01, weight_decay=0.1), network)
    assert isinstance(optimizer, Muon)
    return optimizer


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_is_torchs_two_optimizers_each_on_its_parameters() -> None:
    mine, theirs = networks(2)
    optimizer = muon(mine)
    hidden = hidden_matrices(theirs)
    rest = [weight for weight in theirs.parameters() if weight not in hidden]
    matrices = [weight for weight in rest if weight.dim() == 2]
    vectors = [weight for weight in rest if weight.dim() < 2]
    parts = [
        torch.optim.Muon(sorted(hidden, key=id), lr=0.01, weight_decay=0.1, eps=1e-8, adjust_lr_fn="match_rms_adamw"),
        AdamW(matrices, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1),
        AdamW(vectors, lr=0.01, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for step in range(5):
        rate = 0.01 / (step + 1)
        for one in (optimizer, *parts):
            for group in one.param_groups:
                group["lr"] = rate
        gradients(mine, step)
        optimizer.step()
        gradients(theirs, step)
        for part in parts:
            part.step()
    assert equal(mine, theirs)


@pytest.mark.parametrize("experiment", ["translation/demo", "masked_lm/demo", "causal_lm/demo", "classification/demo"])
def test_matrices_of_layers_are_its_own_and_no_others(experiment: str) -> None:
    model = compose(f"experiment={experiment}").model
    built = factory(model)
    with torch.device("meta"):
        network = built(facts=FACTS)
    hidden = hidden_matrices(network)
    for name, weight in network.named_parameters():
        inside = ".layers." in f".{name}" or name.split(".")[0] in ("encoder", "decoder")
        assert (weight in hidden) == (inside and weight.dim() == 2), name


def test_a_vector_is_not_for_it() -> None:
    with pytest.raises(ValueError, match="2D"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "hidden": True}])
