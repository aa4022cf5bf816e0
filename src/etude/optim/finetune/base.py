"""Base of all fine-tuning methods, and the parts of a task that they choose from."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from etude.errors import ConfigurationError
from etude.optim.parameter_schedule import ParameterSchedule

MODEL = "model"
"""Name of the attribute of a task that holds what may be pretrained; all else in the task is its head."""


class Finetune(ABC):
    """Decides once, before training, which parameters of a task train, at what rate and from when.

    All that depends on the step is in the parameter schedules, so a continued run needs nothing but its configuration.
    """

    def prepare(self, task: nn.Module) -> None:  # noqa: B027 (most methods add none)
        """Add new parameters to the task's model."""

    @abstractmethod
    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return the schedule of each parameter that trains, by its name in the task; the others are frozen.

        Raises:
            ConfigurationError: If no parameter would train, or the task has no such parameters.
        """


def trainable(task: nn.Module) -> list[str]:
    """Return the names of all parameters except those that a model froze for good, such as tables of sinusoids."""
    return [name for name, parameter in task.named_parameters() if parameter.requires_grad]


def head(task: nn.Module) -> list[str]:
    """Return the names of the parameters that the task has beside its model."""
    return [name for name in trainable(task) if not name.startswith(f"{MODEL}.")]


def stages(task: nn.Module) -> list[list[str]]:
    """Return the names of the model's parameters from its input to its output: embeddings, then layer after layer.

    A parameter that two stages share belongs to the lower one.

    Raises:
        ConfigurationError: If the model does not list its stages, or leaves out a parameter.
    """
    model = task.get_submodule(MODEL)
    declared = getattr(model, "stages", None)
    if declared is None:
        raise ConfigurationError(
            f"finetune goes by layers, and {type(model).__name__} has no property `stages` that lists them from input to "
            "output; add one, or choose finetune=full, head, bitfit or lora"
        )
    name_of = {id(parameter): name for name, parameter in task.named_parameters() if parameter.requires_grad}
    names = [
        [
            name_of.pop(id(parameter))
            for module in stage
            for parameter in module.parameters()
            if id(parameter) in name_of
        ]
        for stage in declared
    ]
    unlisted = [name for name in name_of.values() if name.startswith(f"{MODEL}.")]
    if unlisted:
        raise ConfigurationError(
            f"the stages of {type(model).__name__} leave out {', '.join(unlisted[:4])}; add them to one"
        )
    return names


def from_the_top(task: nn.Module) -> list[list[str]]:
    """Return the parameters of the head, then those of each stage of the model from the last layer down; none is empty."""
    return [names for names in (head(task), *reversed(stages(task))) if names]
