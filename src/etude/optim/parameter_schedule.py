"""At what rate a parameter trains, and from when: a pure function of the step, so nothing is stored or restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from etude.duration import Clock, Duration

_NOTHING = Duration(0.0, "step")


@dataclass(frozen=True)
class ParameterSchedule:
    """How a parameter trains.

    Attributes:
        factor: On the rate that the schedule gives to the optimizer.
        start: How long the parameter stays as it is; steps, epochs or tokens, not seconds.
    """

    factor: float = 1.0
    start: Duration = _NOTHING

    def first(self, clock: Clock) -> int:
        """Return how many updates there are before the parameter's first one."""
        return clock.steps(self.start) or 0

    def started(self, step: int, clock: Clock) -> bool:
        """Whether the update after so many others moves the parameter."""
        return step >= self.first(clock)


FROM_THE_START = ParameterSchedule()
"""The course of a parameter of which nothing is said."""


def follow(optimizer: Optimizer, courses: Sequence[ParameterSchedule], rate: float, step: int, clock: Clock) -> None:
    """Set the rate of each group for the next update, and drop the gradients of those that do not train yet.

    Without a gradient an optimizer neither moves a parameter nor keeps a state of it, and weight decay leaves it alone;
    nor does the gradient count in a norm that is taken afterwards.

    Args:
        optimizer: With a gradient in every parameter that may train.
        courses: Of each of its groups.
        rate: What the schedule says.
        step: Updates so far.
        clock: Turns durations into steps.
    """
    for group, course in zip(optimizer.param_groups, courses, strict=True):
        group["lr"] = rate * course.factor
        if not course.started(step, clock):
            for parameter in group["params"]:
                parameter.grad = None
