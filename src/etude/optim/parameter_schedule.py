"""Rate and start of each parameter: pure functions of the step, so nothing is stored or restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from etude.duration import Clock, Duration

_NO_TIME = Duration(0.0, "step")


@dataclass(frozen=True)
class ParameterSchedule:
    """How a parameter trains.

    Attributes:
        factor: Factor on the rate that the learning rate schedule gives to the optimizer.
        start: Time for which the parameter stays as it is; in steps, epochs or tokens, not seconds.
    """

    factor: float = 1.0
    start: Duration = _NO_TIME

    def first(self, clock: Clock) -> int:
        """Return the number of updates before the parameter's first one."""
        return clock.steps(self.start) or 0

    def started(self, step: int, clock: Clock) -> bool:
        """Return whether the update after `step` others moves the parameter."""
        return step >= self.first(clock)


FROM_THE_START = ParameterSchedule()
"""Schedule of a parameter that has no other: the full rate, from the first update on."""


def follow(
    optimizer: Optimizer, group_schedules: Sequence[ParameterSchedule], rate: float, step: int, clock: Clock
) -> None:
    """Set the rate of each group for the next update, and drop the gradients of those that do not train yet.

    Without a gradient an optimizer neither moves a parameter nor keeps a state for it, and weight decay leaves it alone;
    nor does the gradient count in a norm that is taken afterwards.

    Args:
        optimizer: Optimizer with a gradient in every parameter that may train.
        group_schedules: Schedule of each of its groups.
        rate: Rate of the learning rate schedule.
        step: Number of updates so far.
        clock: Converts durations to steps.
    """
    for group, schedule in zip(optimizer.param_groups, group_schedules, strict=True):
        group["lr"] = rate * schedule.factor
        if not schedule.started(step, clock):
            for parameter in group["params"]:
                parameter.grad = None
