from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.optim.parameter_groups import build_optimizer, parameter_groups


class Model(nn.Module):
    """A tied embedding, a norm and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 7)
        self.norm = nn.LayerNorm(3)
        self.embedding = nn.Embedding(7, 3)
        self.output.weight = self.embedding.weight


def test_matrices_decay_and_vectors_do_not() -> None:
    model = Model()
    matrices, vectors = parameter_groups(model, 0.01)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)
    assert [id(parameter) for parameter in matrices["params"]] == [id(model.embedding.weight)]
    expected = [model.norm.bias, model.norm.weight, model.output.bias]
    assert [id(parameter) for parameter in vectors["params"]] == [id(parameter) for parameter in expected]


def test_order_is_by_name_not_by_assembly() -> None:
    forward = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(5, 7)})
    backward = nn.ModuleDict({"b": forward["b"], "a": forward["a"]})
    for one, other in zip(parameter_groups(forward, 0.1), parameter_groups(backward, 0.1), strict=True):
        assert [id(parameter) for parameter in one["params"]] == [id(parameter) for parameter in other["params"]]


def test_frozen_parameters_are_left_out() -> None:
    model = Model()
    model.embedding.requires_grad_(False)
    (vectors,) = parameter_groups(model, 0.01)
    assert len(vectors["params"]) == 3 and vectors["weight_decay"] == 0.0
    with pytest.raises(ConfigurationError, match="all 4 parameters of Model are frozen"):
        parameter_groups(model.requires_grad_(False), 0.01)


def test_decay_shrinks_matrices_only() -> None:
    model = Model()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = 1 - 0.1 * 0.5 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


class Signs(Optimizer):
    """An optimizer of one's own, without weight decay."""

    def __init__(self, groups: Any, lr: float = 0.1) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad.sign()


def test_matrices_decay_as_the_optimizer_s_own_default_says() -> None:
    model = Model()
    default = build_optimizer(partial(torch.optim.AdamW, lr=0.1), model)
    assert [group["weight_decay"] for group in default.param_groups] == [0.01, 0.0]
    named = build_optimizer(partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3), model)
    assert [group["weight_decay"] for group in named.param_groups] == [0.3, 0.0]
    assert [group["weight_decay"] for group in build_optimizer(torch.optim.SGD, model).param_groups] == [0.0, 0.0]
    by_hand = torch.optim.AdamW(parameter_groups(model, 0.3), lr=0.1, weight_decay=0.3)
    assert list(map(list, named.state_dict()["param_groups"])) == list(map(list, by_hand.state_dict()["param_groups"]))


@pytest.mark.parametrize("make_optimizer", [Signs, torch.optim.LBFGS, torch.optim.Rprop])
def test_without_decay_there_is_one_group(make_optimizer: Callable[..., Optimizer]) -> None:
    (group,) = build_optimizer(make_optimizer, Model()).param_groups
    assert len(group["params"]) == 4 and "weight_decay" not in group


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"betas": [0.9, 1.0]}, "Invalid beta parameter at index 1: 1.0"),
        ({"betas": [0.9]}, "list index out of range"),
        ({"fused": True, "foreach": True}, "`fused` and `foreach` cannot be `True` together"),
        ({"fused": True, "differentiable": True}, "`fused` does not support `differentiable`"),
    ],
)
def test_what_the_optimizer_refuses_is_one_line(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_optimizer(partial(torch.optim.AdamW, **settings), Model())
    assert str(caught.value) == f"optimizer: {text}; set optimizer.NAME to another value, or leave it out"


@pytest.mark.parametrize("make_optimizer", [torch.optim.Adam, torch.optim.RMSprop])
def test_no_division_by_zero(make_optimizer: Callable[..., Optimizer]) -> None:
    with pytest.raises(ConfigurationError, match=r"^optimizer\.eps = 0 divides by zero"):
        build_optimizer(partial(make_optimizer, eps=0.0), Model())
