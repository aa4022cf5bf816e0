"""Optimizers over parameter groups: matrices decay and vectors do not, and each schedule has groups of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from etude.errors import ConfigurationError, memory_errors
from etude.models.sharding import blocks
from etude.optim.parameter_schedule import FROM_THE_START, ParameterSchedule

DECAY = "weight_decay"
"""Name of weight decay among the settings of torch's optimizers."""

HIDDEN = "hidden"
"""Setting of an optimizer that treats the matrices of layers otherwise than all other parameters; true of their groups."""


def build_optimizer(
    make_optimizer: Callable[..., Optimizer],
    module: nn.Module,
    schedules: Mapping[str, ParameterSchedule] | None = None,
) -> Optimizer:
    """Return an optimizer over the trainable parameters of a module.

    Whether an optimizer has weight decay, its defaults say. One that has none gets matrices and vectors in the same
    group, so that an optimizer that takes a single group, such as LBFGS, can be used.

    Args:
        make_optimizer: Makes an optimizer from groups of parameters.
        module: The model, or the task that holds it.
        schedules: As in `parameter_groups`.

    Raises:
        ConfigurationError: If no parameter is trainable, or the optimizer refuses one of its settings.
    """
    with refused_settings():
        optimizer = make_optimizer(parameter_groups(module, None, schedules))
        if (
            optimizer.defaults.get("eps") == 0
        ):  # torch takes it, and the first row of an embedding without a gradient is nan
            raise ConfigurationError(
                "optimizer.eps = 0 divides by zero where a gradient is zero; write more, such as 1e-8"
            )
        if DECAY not in optimizer.defaults:
            return optimizer
        hidden = hidden_matrices(module) if HIDDEN in optimizer.defaults else None
        return make_optimizer(parameter_groups(module, optimizer.defaults[DECAY], schedules, hidden))


@contextmanager
def refused_settings(where: str = "") -> Iterator[None]:
    """Turn the errors by which torch's optimizers refuse their settings into one line.

    Args:
        where: Circumstances of the block, for the message.

    Raises:
        ConfigurationError: If the block fails, but for lack of memory or by the device.
    """
    try:
        with memory_errors():
            yield
    except torch.AcceleratorError:  # of the device, such as an assertion in an earlier kernel
        raise
    except (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, AssertionError) as error:
        text = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise ConfigurationError(
            f"optimizer{where}: {text}; set optimizer.NAME to another value, or leave it out"
        ) from error


def hidden_matrices(module: nn.Module) -> set[nn.Parameter]:
    """Return the matrices of a model's layers: those in a stack (`nn.ModuleList`), but for embeddings."""
    stacked = {weight for layer in blocks(module) for weight in layer.parameters() if weight.dim() == 2}
    embeddings = (inner for inner in module.modules() if isinstance(inner, nn.Embedding))
    return stacked - {weight for embedding in embeddings for weight in embedding.parameters()}


def parameter_groups(
    module: nn.Module,
    weight_decay: float | None,
    schedules: Mapping[str, ParameterSchedule] | None = None,
    hidden: Collection[nn.Parameter] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer: matrices decay; biases and gains, which are vectors, do not.

    Args:
        module: The model, or the task that holds it. Frozen parameters are left out; a tied one counts once.
        weight_decay: Weight decay of the matrices; None: the optimizer has none, and vectors need no groups of their own.
        schedules: Schedules of parameters by name; a parameter without one trains from the start, at the full rate.
        hidden: Matrices that get groups of their own, which say so; None: none, and no group says anything.

    Returns:
        Groups as torch's optimizers take them, without empty ones; those that start first, and fastest, come first.
        Parameters are in the order of their names, so the optimizer's state keeps its meaning however the model is
        assembled.

    Raises:
        ConfigurationError: If no parameter is trainable.
    """
    trainable = sorted((name, p) for name, p in module.named_parameters() if p.requires_grad)
    if not trainable:
        frozen = sum(1 for _ in module.parameters())
        raise ConfigurationError(
            f"all {frozen} parameters of {type(module).__name__} are frozen; let at least one train"
        )
    groups: list[dict[str, Any]] = []
    schedule_of = {name: _schedule(name, schedules) for name, _ in trainable}
    for schedule in sorted(set(schedule_of.values()), key=lambda schedule: (schedule.start.amount, -schedule.factor)):
        members = [parameter for name, parameter in trainable if schedule_of[name] == schedule]
        if weight_decay is None:
            groups.append({"params": members})
            continue
        if hidden is not None:
            groups.append({"params": [one for one in members if one in hidden], DECAY: weight_decay, HIDDEN: True})
            members = [one for one in members if one not in hidden]
        groups.append({"params": [weight for weight in members if weight.dim() >= 2], DECAY: weight_decay})
        groups.append({"params": [weight for weight in members if weight.dim() < 2], DECAY: 0.0})
    return [group for group in groups if group["params"]]


def schedules_of_groups(
    groups: Sequence[Mapping[str, Any]], module: nn.Module, schedules: Mapping[str, ParameterSchedule] | None = None
) -> list[ParameterSchedule]:
    """Return the schedule of each group that `parameter_groups` returned for the same module and schedules."""
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [_schedule(name_of[id(group["params"][0])], schedules) for group in groups]


def _schedule(name: str, schedules: Mapping[str, ParameterSchedule] | None) -> ParameterSchedule:
    return (schedules or {}).get(name, FROM_THE_START)
