from __future__ import annotations

import pytest
import torch
from torch import nn

from etude.errors import ConfigurationError
from etude.optim.parameter_groups import parameter_groups


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
