"""What every fine-tuning says, and the parts of a task that it is said of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from etude.errors import ConfigurationError
from etude.optim.parameter_schedule import ParameterSchedule

MODEL = "model"
"""The attribute of a task that holds what may have been pretrained; all else in the task is its head."""


class Finetune(ABC):
    """Decides once, before a training, which parameters of a task train, at what rate and from when.

    All that depends on the step is in the courses, so a continued run needs nothing but its configuration.
    """

    def prepare(self, task: nn.Module) -> None:  # noqa: B027 (most have nothing to prepare)
        """Put new parameters into the task's model; most put none."""

    @abstractmethod
    def courses(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return the course of each parameter that trains, by its name in the task; the others are frozen.

        Raises:
            ConfigurationError: If that would be none, or the task has no such parameters.
        """


def trainable(task: nn.Module) -> list[str]:
    """Return the names of all parameters but those that a model has frozen for good, such as tables of sinusoids."""
    return [name for name, parameter in task.named_parameters() if parameter.requires_grad]


def head(task: nn.Module) -> list[str]:
    """Return the names of the parameters that the task has besides its model."""
    return [name for name in trainable(task) if not name.startswith(f"{MODEL}.")]


def stages(task: nn.Module) -> list[list[str]]:
    """Return the names of the model's parameters from its input to its output: embeddings, then layer after layer.

    A parameter that two stages share belongs to the lower one.

    Raises:
        ConfigurationError: If the model does not say its stages, or leaves out a parameter.
    """
    model = task.get_submodule(MODEL)
    declared = getattr(model, "stages", None)
    if declared is None:
        raise ConfigurationError(
            f"finetune goes by layers, and {type(model).__name__} has no property `stages` that lists them from input to "
            "output; add one, or choose finetune=full, head, bitfit or lora"
        )
    name_of = {id(parameter): name for name, parameter in task.named_parameters() if parameter.requires_grad}
    found = [
        [
            name_of.pop(id(parameter))
            for module in stage
            for parameter in module.parameters()
            if id(parameter) in name_of
        ]
        for stage in declared
    ]
    left = [name for name in name_of.values() if name.startswith(f"{MODEL}.")]
    if left:
        raise ConfigurationError(
            f"the stages of {type(model).__name__} leave out {', '.join(left[:4])}; add them to one"
        )
    return found


def from_the_top(task: nn.Module) -> list[list[str]]:
    """Return the head's parameters, then those of each stage of the model, the last layer's first; none is empty."""
    return [names for names in (head(task), *reversed(stages(task))) if names]
