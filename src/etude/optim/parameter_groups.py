"""Which parameters share their optimizer's settings: those that weight decay holds down, and those of one course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from etude.errors import ConfigurationError
from etude.optim.parameter_schedule import FROM_THE_START, ParameterSchedule

_SHARDED = "_fsdp_wrapped_module."
"""What FSDP puts into the names of the modules that it shards."""


def parameter_groups(
    module: nn.Module, weight_decay: float, courses: Mapping[str, ParameterSchedule] | None = None
) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer: matrices decay; biases and gains, which are vectors, do not.

    Args:
        module: The model, or what holds it. Frozen parameters are left out; a tied one counts once.
        weight_decay: Of the matrices.
        courses: Of parameters by name; without one a parameter trains from the start, at the optimizer's rate.

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
    groups = []
    course_of = {name: _course(name, courses) for name, _ in trainable}
    for course in sorted(set(course_of.values()), key=lambda one: (one.start.amount, -one.factor)):
        members = [parameter for name, parameter in trainable if course_of[name] == course]
        matrices = [parameter for parameter in members if parameter.dim() >= 2]
        vectors = [parameter for parameter in members if parameter.dim() < 2]
        groups += [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def courses_of(
    groups: Sequence[Mapping[str, Any]], module: nn.Module, courses: Mapping[str, ParameterSchedule] | None = None
) -> list[ParameterSchedule]:
    """Return the course of each group that `parameter_groups` returned for the same module and courses."""
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [_course(name_of[id(group["params"][0])], courses) for group in groups]


def _course(name: str, courses: Mapping[str, ParameterSchedule] | None) -> ParameterSchedule:
    return (courses or {}).get(name.replace(_SHARDED, ""), FROM_THE_START)
