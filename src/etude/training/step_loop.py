"""Training loop that validates and ends a run at exact steps.

Lightning counts the interval between validations in batches of an epoch; etude counts everything by one clock. `StepLoop`
overrides the check that Lightning's loop makes after every batch: its result is a function of the step, or, for a length in
seconds, of the run's stopwatch, on which all ranks agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lightning
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from etude.duration import Clock, Duration


@dataclass(frozen=True)
class Length:
    """A duration in steps or in seconds; the other attribute is None."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, duration: Duration, clock: Clock) -> Length:
        """Convert a duration such as `10epoch` or `30min`."""
        steps = clock.steps(duration)
        return cls(steps, duration.amount if steps is None else None)


class Milestones:
    """Decides after each step whether to validate and whether the budget is spent.

    Args:
        budget: Length of the run.
        validate_every: Interval between two validations.
        seconds: Stopwatch of the run: returns the seconds of training so far.
        agreed: Replaces a rank's decision by that of rank 0.
    """

    def __init__(
        self,
        budget: Length,
        validate_every: Length,
        seconds: Callable[[], float],
        agreed: Callable[[bool], bool] = lambda decision: decision,
    ) -> None:
        self.budget = budget
        self._every = validate_every
        self._seconds = seconds
        self._agreed = agreed
        self._next = 0.0
        self._decided: tuple[int, bool] = (0, False)

    def spent(self, step: int) -> bool:
        """Whether the budget is spent after this step."""
        if self.budget.steps is not None:
            return step >= self.budget.steps
        return self._agreed(self._seconds() >= (self.budget.seconds or 0.0))

    def validation_due(self, step: int) -> bool:
        """Whether a validation follows this step; repeated calls for a step return the same."""
        if self._decided[0] != step:
            self._decided = (step, self._is_due(step))
        return self._decided[1]

    def _is_due(self, step: int) -> bool:
        if self.spent(step):
            return True
        if self._every.steps is not None:
            return step % self._every.steps == 0
        every = self._every.seconds or 0.0
        if not self._next:
            self._next = (self._seconds() // every + 1) * every
        due = self._agreed(self._seconds() >= self._next)
        if due:
            self._next = (self._seconds() // every + 1) * every
        return due


class StepLoop(_TrainingEpochLoop):
    """Lightning's loop over an epoch, with validation and end at milestones."""

    milestones: Milestones

    @classmethod
    def install(cls, trainer: lightning.Trainer, milestones: Milestones) -> None:
        """Make a trainer validate and end at milestones."""
        loop = cls(trainer, max_steps=milestones.budget.steps or -1)
        loop.milestones = milestones
        trainer.fit_loop.epoch_loop = loop

    def _broadcast_sigterm_tensor(self) -> None:
        """Skip the collective before each micro-batch: ranks agree on signals once per step (`StopOnSignal`)."""

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        if self._should_accumulate():
            return False
        step = self.global_step
        if self.milestones.budget.seconds is not None and self.milestones.validation_due(step):
            self.trainer.should_stop = self.milestones.spent(step)
        return self.trainer.enable_validation and self.milestones.validation_due(step)
