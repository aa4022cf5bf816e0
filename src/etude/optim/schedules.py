"""The learning rate's course: a pure function of the place in the run, so nothing is stored and nothing restored.

A schedule returns what `optimizer.lr`, the peak, is multiplied with. Position, warmup and total are in one unit, steps
or seconds; the first update of a run is at position 1, its last at `total`. (torch and transformers count the updates
before: their factor for update k, from 0, is the one at position k here. With warmup their first update does nothing;
ours, at position k + 1, does not waste it.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from etude.duration import Duration
from etude.errors import ConfigurationError


@dataclass(frozen=True)
class Schedule(ABC):
    """A linear warmup to the peak, and what follows it.

    Attributes:
        warmup: How long the rate rises, with its unit, such as `400step`; `0step`: not at all.
    """

    warmup: str = "0step"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If the warmup is no duration.
        """
        Duration.parse(self.warmup)

    def multiplier(self, position: float, warmup: float, total: float) -> float:
        """Return the factor on the peak rate, from 0 to 1.

        Args:
            position: Where the run is, at least 0; after `total` the factor stays what it is there.
            warmup: The warmup's length.
            total: The run's length.
        """
        if position < warmup:
            return position / warmup
        return self.after_warmup(position, warmup, total)

    @abstractmethod
    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return the factor at a position that is not before the warmup's end, where it is 1."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak rate."""

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Decay(Schedule):
    """A course from the peak to a final rate, which is reached at the end of the run.

    Attributes:
        final: The final rate, as a fraction of the peak.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If the warmup is no duration, or `final` no fraction.
        """
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ConfigurationError(
                f"scheduler.final={self.final} is no fraction of optimizer.lr; write a number from 0 to 1"
            )

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return the factor between the peak and the final rate."""
        progress = min(1.0, (position - warmup) / (total - warmup)) if total > warmup else 0.0
        return self.final + (1.0 - self.final) * self.remainder(progress)

    @abstractmethod
    def remainder(self, progress: float) -> float:
        """Return how much of the way down is left, from 1 to 0, as progress goes from 0 to 1."""


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
class InverseSquareRoot(Schedule):
    """The peak over the square root of the position in warmups (Vaswani et al. 2017, equation 3, by its peak).

    The paper writes rate = width^-0.5 · min(step^-0.5, step · warmup^-1.5). At step = warmup that is
    (width · warmup)^-0.5, its peak, and what is left after dividing by it is min(√(warmup / step), step / warmup).
    Without warmup the peak is at position 1.
    """

    def after_warmup(self, position: float, warmup: float, total: float) -> float:
        """Return √(warmup / position)."""
        peak = warmup or 1.0
        return math.sqrt(peak / max(peak, min(position, total)))
