"""Fine-tuning of selected parameters, all at the full rate from the start; the others keep every bit."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from etude.errors import ConfigurationError
from etude.optim.finetune.base import Finetune, head, stages, trainable
from etude.optim.parameter_schedule import FROM_THE_START, ParameterSchedule


class Full(Finetune):
    """Everything trains."""

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every parameter."""
        return at_once(trainable(task))


class Head(Finetune):
    """Only the head trains: the model's states are features, computed without autograd."""

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every parameter outside the model.

        Raises:
            ConfigurationError: If there are none.
        """
        names = head(task)
        if not names:
            raise ConfigurationError(
                f"finetune=head would train nothing: {type(task).__name__} has no parameters besides its model's; "
                "choose finetune=top_layers, bitfit or lora"
            )
        return at_once(names)


class TopLayers(Finetune):
    """The last layers and the head train; everything below is computed without autograd.

    Args:
        layers: Number of layers. The layers of a decoder are above all those of its encoder.
    """

    def __init__(self, layers: int = 2) -> None:
        self.layers = layers

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every parameter of the last layers and the head.

        Raises:
            ConfigurationError: If the model has fewer layers.
        """
        _embeddings, *layers = stages(task)
        if not 1 <= self.layers <= len(layers):
            raise ConfigurationError(
                f"finetune.layers = {self.layers}, but the model has {len(layers)}; write 1 to {len(layers)}, or "
                "finetune=full to train the embeddings as well"
            )
        return at_once([*head(task), *(name for layer in layers[-self.layers :] for name in layer)])


class BitFit(Finetune):
    """Biases train, those of norms included, and the head (Ben Zaken et al. 2022, without their subset of biases)."""

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every bias and every parameter of the head.

        Raises:
            ConfigurationError: If the model has no biases.
        """
        head_names = set(head(task))
        biases = [name for name in trainable(task) if name not in head_names and name.rpartition(".")[2] == "bias"]
        if not biases:
            raise ConfigurationError(
                f"finetune=bitfit: the model of {type(task).__name__} has no biases; choose finetune=head or lora"
            )
        return at_once([*head_names, *biases])


def at_once(names: Iterable[str]) -> dict[str, ParameterSchedule]:
    """Return the same schedule for all names: the full rate, from the start."""
    return dict.fromkeys(names, FROM_THE_START)
