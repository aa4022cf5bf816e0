"""Fine-tuning by depth: layers nearer to the input change less, or later."""

from __future__ import annotations

from torch import nn

from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.optim.finetune.base import Finetune, from_the_top
from etude.optim.parameter_schedule import ParameterSchedule


class LayerDecay(Finetune):
    """The rate of each layer is a fraction of the rate of the layer above.

    The head has the optimizer's rate, the model's last layer that times the decay, and so on down to the embeddings.
    (Howard and Ruder 2018, section 3.2, divide by 2.6: a decay of 0.385. Clark et al. 2020 take 0.8 for small models and
    0.9 for large ones; their code has one power more between the head and the last layer.)

    Args:
        decay: The fraction, above 0 and below 1.

    Raises:
        ConfigurationError: If it is out of range.
    """

    def __init__(self, decay: float = 0.8) -> None:
        self.decay = fraction(decay)

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every parameter; the rates are powers of the decay."""
        depths = enumerate(from_the_top(task))
        return {name: ParameterSchedule(self.decay**depth) for depth, names in depths for name in names}


class Gradual(Finetune):
    """Gradual unfreezing: parts begin to train one after the other, from the top (Howard and Ruder 2018, section 3.3).

    First the head, then the model's last layer too, down to the embeddings. A part that does not train yet has its
    gradient dropped before each update: it neither moves nor has a state in the optimizer. (Its gradient is computed:
    distributed training fixes which gradients it exchanges when it starts.)

    Args:
        every: Time between the starts of two parts, with its unit, such as `1epoch`; not in seconds.
        decay: Rate of each part as a fraction of the rate of the part above, as in `LayerDecay`; None: the same rate.

    Raises:
        ConfigurationError: If `every` is zero, or in seconds, or the decay is out of range.
    """

    def __init__(self, every: str = "1epoch", decay: float | None = None) -> None:
        self.every = Duration.parse(every)
        if not self.every.amount or self.every.unit == "second":
            raise ConfigurationError(
                f"finetune.every = {every} is not a number of steps above 0; write it in step, epoch or tok, such as 1epoch"
            )
        self.decay = 1.0 if decay is None else fraction(decay)

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every parameter; the starts are multiples of `every`."""
        return {
            name: ParameterSchedule(self.decay**depth, Duration(depth * self.every.amount, self.every.unit))
            for depth, names in enumerate(from_the_top(task))
            for name in names
        }


def fraction(decay: float) -> float:
    """Return a decay of rates, checked.

    Raises:
        ConfigurationError: If it is not between 0 and 1.
    """
    if not 0 < decay < 1:
        raise ConfigurationError(f"finetune.decay = {decay} is out of range; write more than 0 and less than 1")
    return decay
