"""Learning rate schedules: pure functions of the position in a run, so nothing is stored and nothing restored.

A schedule returns the factor on `optimizer.lr`, the peak. Position and lengths are in one unit: seconds if the budget is
in seconds, else steps. The first update of a run is at position 1, its last at the budget's end. (torch and transformers
count the updates before: their factor for update k, from 0, is the one at position k here. With warm-up their first
update does nothing; ours, at position k + 1, does not waste it.)
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from etude.duration import Clock, Duration
from etude.errors import ConfigurationError


class Schedule(ABC):
    """Learning rate over the course of a run."""

    @abstractmethod
    def factor(self, position: float, budget: Duration, clock: Clock) -> float:
        """Return the factor on the peak rate.

        Args:
            position: Position in the run, at least 0: seconds if the budget is in seconds, else steps.
            budget: Length of the run; of infinite amount if nothing says when it ends.
            clock: Converts durations to steps.
        """


@dataclass(frozen=True)
class WarmupSchedule(Schedule):
    """Linear warm-up to the peak, then a shape that subclasses define.

    Attributes:
        warmup: Length of the warm-up with its unit, such as `400step`; `0step`: none.
    """

    warmup: str = "0step"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If the warm-up is not a duration.
        """
        self._warmup  # noqa: B018 (parses it)

    @functools.cached_property
    def _warmup(self) -> Duration:
        return Duration.parse(self.warmup)

    def factor(self, position: float, budget: Duration, clock: Clock) -> float:
        """Return the factor on the peak rate, from 0 to 1; after the budget it stays what it is at its end.

        Raises:
            ConfigurationError: If one of warm-up and budget is in seconds and the other is not.
        """
        warmup, total = (_measured(duration, budget, clock) for duration in (self._warmup, budget))
        if position < warmup:
            return position / warmup
        return self.after_warmup(position, warmup, total)

    @abstractmethod
    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return the factor at a position from the end of the warm-up on, where it is 1."""


@dataclass(frozen=True)
class Constant(WarmupSchedule):
    """The peak rate."""

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Decay(WarmupSchedule):
    """Descent from the peak to a final rate, which is reached at the end of the run.

    Attributes:
        final: The final rate, as a fraction of the peak.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If the warm-up is not a duration, or `final` not a fraction.
        """
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ConfigurationError(
                f"scheduler.final={self.final} is not a fraction of optimizer.lr; write a number from 0 to 1"
            )

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return the factor between the peak and the final rate.

        Raises:
            ConfigurationError: If nothing says when the run ends.
        """
        if math.isinf(total):
            raise ConfigurationError(
                f"scheduler: {type(self).__name__} descends until the end of the training, which has none; give the "
                "Trainer max_steps or max_epochs, or choose Constant or InverseSquareRoot"
            )
        progress = min(1.0, (position - warmup) / (total - warmup)) if total > warmup else 0.0
        return self.final + (1.0 - self.final) * self.remainder(progress)

    @abstractmethod
    def remainder(self, progress: float) -> float:
        """Return the part of the descent that is left, from 1 to 0, as progress goes from 0 to 1."""


@dataclass(frozen=True)
class Linear(Decay):
    """A straight line from the peak to the final rate."""

    def remainder(self, progress: float) -> float:
        """Return 1 - progress."""
        return 1.0 - progress


@dataclass(frozen=True)
class Cosine(Decay):
    """Half a cosine from the peak to the final rate (Loshchilov and Hutter 2017, equation 5, without restarts)."""

    def remainder(self, progress: float) -> float:
        """Return (1 + cos(π · progress)) / 2."""
        return (1.0 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class WarmupStableDecay(Decay):
    """The peak for most of the run, then a descent to the final rate (Hu et al. 2024, "MiniCPM", section 4).

    The descent is 1 - √progress, which Hägele et al. 2024 ("Scaling laws and compute-optimal training beyond fixed training
    durations", section 3) found better than a line. Since the rate before it does not depend on the budget, a run can be
    given a larger one and goes on as if it had always had it, if it was stopped before the descent.

    Attributes:
        decay: Part of the run after the warm-up that the descent takes, at its end.
    """

    decay: float = 0.2

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If the warm-up is not a duration, or `final` or `decay` is not a fraction.
        """
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise ConfigurationError(
                f"scheduler.decay={self.decay} is not a part of the run; write a number above 0, at most 1"
            )

    def remainder(self, progress: float) -> float:
        """Return 1, and in the last part of the run 1 - √(progress within it)."""
        return 1.0 - math.sqrt(max(0.0, (progress - (1.0 - self.decay)) / self.decay))


@dataclass(frozen=True)
class InverseSquareRoot(WarmupSchedule):
    """The peak over the square root of the position in warm-ups (Vaswani et al. 2017, equation 3, by its peak).

    The paper writes rate = width^-0.5 · min(step^-0.5, step · warmup^-1.5). At step = warmup that is
    (width · warmup)^-0.5, its peak, and what is left after dividing by it is min(√(warmup / step), step / warmup).
    Without warm-up the peak is at position 1.
    """

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return √(warmup / position)."""
        peak = warmup or 1.0
        return math.sqrt(peak / max(peak, min(position, total)))


@dataclass(frozen=True)
class RangeTest(WarmupSchedule):
    """Exponential growth over the whole run, which shows at what rates a model learns and at what rates it diverges.

    The range test of Smith 2017, "Cyclical learning rates for training neural networks", section 3.3, on the logarithmic
    scale of later practice: the first update after the warm-up is at `low`, the last one at `final`, and each rate is the same
    multiple of the one before it.

    Attributes:
        warmup: Length of a linear warm-up to the first rate.
        low: The first rate, as a fraction of `optimizer.lr`.
        final: The last rate, as a fraction of `optimizer.lr`.
    """

    low: float = 1e-6
    final: float = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If the warm-up is not a duration, or the rates do not rise.
        """
        super().__post_init__()
        if not 0 < self.low < self.final < math.inf:
            raise ConfigurationError(
                f"scheduler.low={self.low} and scheduler.final={self.final} are no range of rates; write two fractions of "
                "optimizer.lr above 0, the lower one first"
            )

    def factor(self, position: float, budget: Duration, clock: Clock) -> float:
        """Return the factor on `optimizer.lr`, at most `final`; during the warm-up below `low`.

        Raises:
            ConfigurationError: If one of warm-up and budget is in seconds and the other is not, or nothing says when the run
                ends.
        """
        scale = self.low if position < _measured(self._warmup, budget, clock) else 1.0
        return scale * super().factor(position, budget, clock)

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return low · (final / low)^progress, where progress goes from 0 to 1.

        Raises:
            ConfigurationError: If nothing says when the run ends.
        """
        if math.isinf(total):
            raise ConfigurationError(
                "scheduler: RangeTest rises until the end of the training, which has none; give the Trainer max_steps or "
                "max_epochs"
            )
        first = warmup or 1.0  # the first update is at position 1
        progress = min(1.0, max(0.0, (position - first) / (total - first))) if total > first else 1.0
        return self.low * (self.final / self.low) ** progress


def _measured(duration: Duration, budget: Duration, clock: Clock) -> float:
    """Return a duration in the unit that positions in a run of this budget have."""
    if duration.amount and (duration.unit == "second") != (budget.unit == "second"):
        raise ConfigurationError(
            f"scheduler.warmup={duration} cannot be compared with the budget {budget}; write both in seconds, or neither"
        )
    if duration.unit == "token" and math.isnan(clock.tokens_per_step):
        raise ConfigurationError(
            f"scheduler.warmup={duration} cannot be converted to steps without a data module; give the Trainer datamodule=…"
        )
    if duration.unit == "second" or math.isinf(duration.amount):
        return duration.amount
    return float(clock.steps(duration) or 0)
