"""Laws of fine-tuning: what is frozen keeps every bit and costs nothing; what trains starts when it shall."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.models.encoder import Encoder
from etude.models.pretrained.bart import Bart
from etude.models.pretrained.encoder_decoder_families import ENCODER_DECODER_FAMILIES
from etude.models.seq2seq import Seq2Seq
from etude.optim.finetune.base import Finetune, from_the_top
from etude.optim.finetune.by_depth import Gradual, LayerDecay
from etude.optim.finetune.lora import LoRA
from etude.optim.finetune.selection import BitFit, Full, Head, TopLayers
from etude.optim.parameter_groups import parameter_groups, schedules_of_groups
from etude.optim.parameter_schedule import FROM_THE_START, ParameterSchedule, follow
from etude.tasks.classification import Classification
from etude.types import ClassificationBatch
from tests.optim.finetune.conftest import FACTS, LAYERS

CLOCK = Clock(steps_per_epoch=4, tokens_per_step=10.0)
HEAD = {"head.weight", "head.bias"}
EACH: list[Callable[[], Finetune]] = [
    Full,
    Head,
    partial(TopLayers, 1),
    BitFit,
    partial(LoRA, 2),
    partial(LayerDecay, 0.5),
    partial(Gradual, "1step"),
]


def trained(task: nn.Module) -> set[str]:
    return {name for name, parameter in task.named_parameters() if parameter.requires_grad}


def train(task: Classification, batch: ClassificationBatch, steps: int) -> tuple[Optimizer, list[set[str]]]:
    """Train as a run does; return the optimizer and the names of what each step moved."""
    groups = parameter_groups(task, 0.5, task.parameter_schedules)
    schedules = schedules_of_groups(groups, task, task.parameter_schedules)
    optimizer, moved = torch.optim.AdamW(groups, lr=1e-2), []
    for step in range(steps):
        before = state(task)
        task.loss(batch)[0].backward()
        follow(optimizer, schedules, 1e-2, step, CLOCK)
        optimizer.step()
        optimizer.zero_grad()
        moved.append({name for name, tensor in state(task).items() if not torch.equal(tensor, before[name])})
    return optimizer, moved


def state(task: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


# What trains


def test_each_trains_what_it_says(task: Classification) -> None:
    everything = trained(task)
    top = {name for name in everything if name.startswith("model.layers.2.")}
    assert Full().parameter_schedules(task) == dict.fromkeys(everything, FROM_THE_START)
    assert Head().parameter_schedules(task).keys() == HEAD
    assert TopLayers(1).parameter_schedules(task).keys() == HEAD | top
    assert TopLayers(LAYERS).parameter_schedules(task).keys() == {
        name for name in everything if "embedding" not in name
    }
    assert BitFit().parameter_schedules(task).keys() == {"head.weight"} | {
        name for name in everything if name.endswith("bias")
    }
    assert LayerDecay().parameter_schedules(task).keys() == Gradual().parameter_schedules(task).keys() == everything


@pytest.mark.parametrize("made", EACH)
def test_what_is_frozen_keeps_every_bit(
    task: Classification, batch: ClassificationBatch, made: Callable[[], Finetune]
) -> None:
    task.adjust(made())
    names = trained(task)
    optimizer, moved = train(task.train(), batch, steps=5)
    assert set.union(*moved) == names == task.parameter_schedules.keys()
    frozen = [parameter for parameter in task.parameters() if not parameter.requires_grad]
    assert all(parameter.grad is None and parameter not in optimizer.state for parameter in frozen)
    assert len(optimizer.state) == len(names)


@pytest.mark.parametrize(("made", "without"), [(Head, LAYERS), (partial(TopLayers, 1), LAYERS - 1), (Full, 0)])
def test_below_what_trains_there_is_no_graph(
    task: Classification, batch: ClassificationBatch, made: Callable[[], Finetune], without: int
) -> None:
    task.train().adjust(made())
    differentiable: list[bool] = []
    for layer in cast(Encoder, task.model).layers:
        layer.register_forward_hook(lambda *values: differentiable.append(values[2].requires_grad))
    task.loss(batch)
    assert differentiable == [False] * without + [True] * (LAYERS - without)


def test_what_is_kept_for_the_backward_pass_falls(task: Classification, batch: ClassificationBatch) -> None:
    kept = []
    for finetune in (Full(), TopLayers(2), TopLayers(1), Head()):
        task.train().requires_grad_(True).adjust(finetune)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.loss(batch)
        kept.append(sum(sizes))
    assert kept == sorted(kept, reverse=True)
    assert kept[2] < 0.5 * kept[0] and kept[3] < 0.1 * kept[0]


# At what rate, from when


def test_rates_fall_from_layer_to_layer(task: Classification) -> None:
    schedules = LayerDecay(0.5).parameter_schedules(task)
    assert {schedules[name].factor for name in HEAD} == {1.0}
    for index in range(LAYERS):
        found = {schedule.factor for name, schedule in schedules.items() if name.startswith(f"model.layers.{index}.")}
        assert found == {0.5 ** (LAYERS - index)}
    assert schedules["model.embedding.weight"] == ParameterSchedule(0.5 ** (LAYERS + 1))


def test_the_groups_get_their_rates(task: Classification, batch: ClassificationBatch) -> None:
    task.adjust(LayerDecay(0.5))
    optimizer, _ = train(task, batch, steps=1)
    assert [group["lr"] for group in optimizer.param_groups[::2]] == [1e-2 * 0.5**depth for depth in range(LAYERS + 2)]
    ids = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in task.parameters())


def test_full_is_as_if_there_were_no_fine_tuning(task: Classification) -> None:
    before = parameter_groups(task, 0.1)
    task.adjust(Full())
    after = parameter_groups(task, 0.1, task.parameter_schedules)
    assert [[id(p) for p in group["params"]] for group in after] == [
        [id(p) for p in group["params"]] for group in before
    ]


def test_gradual_unfreezing_goes_down(task: Classification, batch: ClassificationBatch) -> None:
    task.adjust(Gradual("2step"))
    optimizer, moved = train(task, batch, steps=2 * (LAYERS + 2))
    parts = [set(names) for names in from_the_top(task)]
    assert parts[0] == HEAD and parts[1] == {name for name in task.parameter_schedules if "layers.2" in name}
    for step, names in enumerate(moved):
        assert names == set.union(*parts[: step // 2 + 1]), step
    steps = {name: int(optimizer.state[parameter]["step"]) for name, parameter in task.named_parameters()}
    assert {steps[name] for name in parts[-1]} == {2}
    assert {steps[name] for name in HEAD} == {len(moved)}


@given(
    depth=st.integers(0, 30),
    every=st.sampled_from(["1step", "7step", "0.25epoch", "1epoch", "3ktok"]),
    per_epoch=st.integers(1, 500),
)
def test_a_start_is_a_function_of_the_step(depth: int, every: str, per_epoch: int) -> None:
    clock, one = Clock(per_epoch, 12.5), Duration.parse(every)
    schedule = ParameterSchedule(start=Duration(depth * one.amount, one.unit))
    first = schedule.first(clock)
    units = {"step": 1.0, "epoch": per_epoch, "token": 1 / 12.5}
    assert first == (0 if not depth else max(1, round(depth * one.amount * units[one.unit])))
    assert schedule.started(first, clock) and not schedule.started(first - 1, clock)


# Models


@pytest.mark.parametrize("family", [None, *ENCODER_DECODER_FAMILIES.values()])
def test_stages_of_an_encoder_decoder(task: Classification, family: Any) -> None:
    if family is None:
        task.model = Seq2Seq(FACTS, 8, 2, 2, 3, 12, 0.0, 9)  # type: ignore[assignment]
    else:
        task.model = Bart(FACTS, 8, 2, 2, 3, 12, 0.0, 9, family, nn.functional.relu, True)  # type: ignore[assignment]
    parts = from_the_top(task)
    assert len(parts) == 1 + 3 + 2 + 1
    assert sorted(name for names in parts for name in names) == sorted(trained(task))
    assert all("decoder.2." in name or "decoder_norm" in name for name in parts[1])
    assert "model.memory.weight" in parts[4] and "model.embedding.weight" in parts[-1]
    task.adjust(LoRA(2, modules=["query", "memory"]))
    expected = 2 * (2 + 3 + 3 + 1)  # self-attention on both sides, cross-attention, memory
    assert len([name for name in trained(task) if "lora" in name]) == expected


# What does not fit


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: TopLayers(4), r"finetune.layers = 4, but the model has 3; write 1 to 3"),
        (lambda: LoRA(13), r"finetune.rank = 13 is more than the 12 of layers.0.attention.query_key_value"),
        (lambda: LoRA(0), "rank = 0"),
        (
            lambda: LoRA(1, modules=["query", "valve"]),
            "valve is not a linear layer of Encoder; it has query, key, value",
        ),
        (lambda: LayerDecay(1.5), "finetune.decay = 1.5 is out of range"),
        (lambda: Gradual("10min"), "finetune.every = 10min is not a number of steps"),
    ],
)
def test_what_does_not_fit_is_refused(task: Classification, made: Callable[[], Finetune], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        task.adjust(made())


def test_parts_that_are_not_there_are_refused(task: Classification) -> None:
    task.model.forgotten = nn.Linear(1, 1, bias=False)
    with pytest.raises(ConfigurationError, match=r"stages of Encoder leave out model.forgotten.weight"):
        task.adjust(LayerDecay())
    task.head = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="finetune=head would train nothing"):
        task.adjust(Head())
    task.model = nn.Linear(2, 3, bias=False)  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="no biases"):
        task.adjust(BitFit())
    with pytest.raises(ConfigurationError, match="Linear has no property `stages`"):
        task.adjust(TopLayers())


def test_what_a_model_froze_itself_stays_frozen(task: Classification) -> None:
    encoder = cast(Encoder, task.model)
    encoder.positions.requires_grad_(False)
    task.adjust(Full())
    assert not any(parameter.requires_grad for parameter in encoder.positions.parameters())
    assert encoder.embedding.weight.requires_grad
