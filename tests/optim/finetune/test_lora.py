"""Laws of low-rank adaptation."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude.errors import ConfigurationError
from etude.models.layers.dropout import Dropout
from etude.models.pooling import POOLINGS, PoolingName
from etude.optim.finetune.lora import LoRA, LoRALinear, merge
from etude.tasks.classification import Classification
from etude.types import ClassificationBatch


@settings(deadline=None, max_examples=30)
@given(
    parts=st.integers(1, 4),
    width=st.integers(1, 6),
    inputs=st.integers(1, 7),
    rank=st.integers(1, 3),
    bias=st.booleans(),
    data=st.data(),
)
def test_it_adds_a_product_of_low_rank_to_its_parts(
    parts: int, width: int, inputs: int, rank: int, bias: bool, data: st.DataObject
) -> None:
    adapted = data.draw(st.lists(st.integers(0, parts - 1), min_size=1, unique=True))
    torch.manual_seed(parts + 10 * width + 100 * inputs)
    linear = nn.Linear(inputs, parts * width, bias=bias).double()
    layer = LoRALinear(linear, parts, adapted, rank, alpha=3.0, dropout=0.0).double()
    x = torch.randn(5, inputs, dtype=torch.float64)
    torch.testing.assert_close(layer(x), linear(x), rtol=0, atol=0)
    nn.init.normal_(layer.lora_b)
    expected = linear(x).unflatten(1, (parts, width)).clone()
    for index, part in enumerate(adapted):
        expected[:, part] += (3.0 / rank) * x @ layer.lora_a[index].T @ layer.lora_b[index].T
    torch.testing.assert_close(layer(x), expected.flatten(1))
    torch.testing.assert_close(layer.merged()(x), expected.flatten(1))


@pytest.mark.parametrize(("pooling", "rounding"), [("mean", 0.0), ("first", 1e-6)])
def test_at_the_start_it_is_the_base(
    task: Classification, batch: ClassificationBatch, pooling: PoolingName, rounding: float
) -> None:
    task.eval()
    task.pooling = POOLINGS[pooling]  # of the first state alone, the base computes the last layer in another shape
    base = copy.deepcopy(task)
    task.adjust(LoRA(3, modules=["query", "key", "value", "output", "inner", "outer"]))
    before, after = (one.logits(batch.tokens, batch.mask) for one in (base, task))
    torch.testing.assert_close(after, before, rtol=0, atol=rounding)
    assert {name for name in task.state_dict() if "lora" not in name} == set(base.state_dict())


def test_merged_is_unmerged(task: Classification, batch: ClassificationBatch) -> None:
    base = copy.deepcopy(task)
    task.adjust(LoRA(3, modules=["query", "value", "outer"]))
    for name, parameter in task.named_parameters():
        if "lora_b" in name:
            nn.init.normal_(parameter, std=0.1)
    task.eval()
    before = task.logits(batch.tokens, batch.mask)
    assert not torch.allclose(before, base.eval().logits(batch.tokens, batch.mask), atol=1e-2)
    merge(task)
    torch.testing.assert_close(task.logits(batch.tokens, batch.mask), before, rtol=0, atol=1e-6)
    assert task.state_dict().keys() == base.state_dict().keys()
    fused = "model.layers.1.attention.query_key_value.weight"
    changed = task.state_dict()[fused] - base.state_dict()[fused]
    assert [bool(rows.any()) for rows in changed.chunk(3)] == [True, False, True]
    assert type(task.get_submodule("model.layers.0.feed_forward.outer")) is nn.Linear


def test_all_linear_layers_are_those_of_every_name(task: Classification) -> None:
    base = copy.deepcopy(task)
    task.adjust(LoRA(3, modules=None))
    base.adjust(LoRA(3, modules=["query", "key", "value", "output", "inner", "outer"]))
    kinds = {name: (type(module), getattr(module, "lora_a", None)) for name, module in task.model.named_modules()}
    assert all(kind is not nn.Linear for kind, _ in kinds.values())
    assert {name: parameter.shape for name, parameter in task.named_parameters()} == {
        name: parameter.shape for name, parameter in base.named_parameters()
    }


def test_a_model_without_linear_layers_is_refused() -> None:
    task = nn.Module()
    task.model = nn.Embedding(3, 4)
    with pytest.raises(ConfigurationError, match="Embedding has no linear layers; write finetune=full"):
        LoRA(3, modules=None).prepare(task)


def test_dropout_is_on_the_adapters_only() -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(64, 6), torch.randn(3, 64)
    layer = LoRALinear(linear, 1, [0], 2, alpha=2.0, dropout=0.5)
    assert isinstance(layer.dropout, Dropout)
    assert torch.equal(layer(x), linear(x))
    nn.init.ones_(layer.lora_b)
    torch.manual_seed(2)
    found = layer(x) - linear(x)
    torch.manual_seed(2)
    dropped = Dropout(0.5)(x)
    torch.testing.assert_close(found, F.linear(dropped, layer.lora_a[0]).sum(dim=1, keepdim=True).expand(3, 6))
