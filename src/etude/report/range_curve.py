"""The curve of a range test, loss over learning rate, and the learning rate that it proposes.

Proposed is a tenth of the rate at which the smoothed loss is least, a rule as old as the test. The bottom of a curve is often
flat for a power of ten, and noise decides where in it the minimum is: what counts is the middle of the bottom. The steepest
descent is measured too, and not proposed: it is found anywhere between a thirtieth of a good rate and fifteen times it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from etude.errors import DataError
from etude.report.charts import Floats

SMOOTHING = 0.9
"""Weight of the past in the exponential moving average of the loss."""

LAG = round(SMOOTHING / (1 - SMOOTHING))
"""Steps by which the average is late: the mean age of what it is made of."""

LEAST = 30
"""Smallest number of steps that make a curve."""

BELOW_MINIMUM = 10.0
"""The rate at which the loss is least is so many times the proposed one."""

FLAT = 0.05
"""Share of the descent that is no difference: the bottom of the curve is where the loss is no further above its least."""

FLAT_NOISES = 3.0
"""Deviations of the smoothed noise that are no difference either."""

DIVERGED = 0.5
"""Share of its descent that a loss has given up when it is said to diverge."""

NOISES = 5.0
"""Deviations of the smoothed noise that a descent has to be deeper than."""

ROUNDING = 1e-6
"""Share of the loss that a descent has to be deeper than."""


class NoDescentError(DataError):
    """The loss of a range test did not fall: it proposes nothing."""


@dataclass(frozen=True)
class Proposal:
    """What a curve proposes.

    Attributes:
        rate: The proposed learning rate, with two significant digits.
        why: Where it comes from, in a few words.
        lowest: The rate at which the loss is least: the middle of the bottom, on the logarithmic scale.
        steepest: The rate of the steepest descent.
        diverges: The rate above which the loss diverges; None: it did not.
    """

    rate: float
    why: str
    lowest: float
    steepest: float
    diverges: float | None


@dataclass(frozen=True)
class RangeCurve:
    """Loss over learning rate.

    Attributes:
        rates: Learning rates, rising, [N].
        losses: Loss of the step at each rate, a mean over runs, [N]; finite.
        runs: Number of runs.
    """

    rates: Floats
    losses: Floats
    runs: int = 1

    @classmethod
    def mean(cls, runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> RangeCurve:
        """Return the mean curve of runs, as far as each of them has finite losses.

        Args:
            runs: Learning rate and loss of each step, by run.

        Raises:
            DataError: If the runs do not have the same rising rates.
        """
        length = min((_finite(losses) for _, losses in runs), default=0)
        rates = np.array([run_rates[:length] for run_rates, _ in runs], dtype=np.float64).reshape(len(runs), length)
        losses = np.array([run_losses[:length] for _, run_losses in runs], dtype=np.float64).reshape(rates.shape)
        if length and (not np.allclose(rates, rates[0], rtol=1e-6, atol=0) or not _rises(rates[0])):
            raise DataError(
                "the learning rates of the runs are not those of one range test; write scheduler=range_test"
            )
        return cls(rates[0] if len(runs) else np.zeros(0), losses.sum(0) / max(1, len(runs)), len(runs))

    @property
    def centred(self) -> tuple[Floats, Floats]:
        """Rates and the averages that stand for them, [N - LAG] each."""
        return self.rates[:-LAG], self.smoothed[LAG:]

    @cached_property
    def smoothed(self) -> Floats:
        """Exponential moving average of the losses, corrected for its start at zero, [N] (Kingma and Ba 2015, section 3)."""
        average, averages = 0.0, []
        for count, loss in enumerate(self.losses.tolist(), 1):
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            averages.append(average / (1 - SMOOTHING**count))
        return np.array(averages)

    @property
    def start(self) -> float:
        """The loss before anything is learned: the median of the first tenth."""
        return float(np.median(self.smoothed[: self._begun]))

    @property
    def _begun(self) -> int:
        """The number of steps that make the start: averages of few losses are no minimum."""
        return max(3, len(self.rates) // 10)

    @cached_property
    def _lowest(self) -> int:
        """The place of the smallest smoothed loss after the start."""
        return self._begun + int(np.argmin(self.smoothed[self._begun :]))

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in the smoothed loss, from the differences of neighbours before its minimum."""
        differences = np.diff(self.losses[: self._lowest + 1])
        deviation = 1.4826 * float(np.median(np.abs(differences))) / np.sqrt(2) if len(differences) else 0.0
        return float(deviation * np.sqrt((1 - SMOOTHING) / (1 + SMOOTHING)))

    def propose(self) -> Proposal:
        """Return the learning rate that the curve proposes.

        Raises:
            NoDescentError: If the curve is too short, or the loss did not fall by more than its noise.
        """
        if len(self.rates) < LEAST:
            raise NoDescentError(
                f"no learning rate is proposed: {len(self.rates)} steps with a finite loss are no curve; write a longer budget, "
                "or a lower scheduler.low"
            )
        lowest = self._lowest
        descent = self.start - float(self.smoothed[lowest])
        if not descent > max(NOISES * self.noise, ROUNDING * abs(self.start)):
            raise NoDescentError(
                f"no learning rate is proposed: the loss did not fall by more than its noise (from {self.start:.4g} to "
                f"{self.smoothed[lowest]:.4g}); write a longer budget, or sweep.seeds=[1,2,3]"
            )
        middle = self._middle_of_bottom(self.smoothed[lowest] + max(FLAT * descent, FLAT_NOISES * self.noise))
        risen = _first(self.smoothed[lowest:] > self.smoothed[lowest] + DIVERGED * descent)
        return Proposal(
            rate=two_digits(middle / BELOW_MINIMUM),
            why="a tenth of the rate at which the loss is least",
            lowest=middle,
            steepest=float(self.rates[self._steepest(lowest)]),
            diverges=None if risen < 0 else self._rate(lowest + risen),
        )

    def _rate(self, place: int) -> float:
        """Return the rate that an average stands for."""
        return float(self.rates[max(0, place - LAG)])

    def _middle_of_bottom(self, height: float) -> float:
        """Return the geometric mean of the first and the last rate whose average is no higher."""
        bottom = self._begun + np.flatnonzero(self.smoothed[self._begun :] <= height)
        return float(np.sqrt(self._rate(int(bottom[0])) * self._rate(int(bottom[-1]))))

    def _steepest(self, lowest: int) -> int:
        """Return the place, up to the minimum, around which a line through the losses falls most."""
        reach = max(5, len(self.rates) // 15)
        scale = np.log(self.rates)
        slopes = []
        for place in range(lowest + 1):
            window = slice(max(0, place - reach), place + reach + 1)
            slopes.append(float(np.polyfit(scale[window], self.losses[window], 1)[0]))
        return int(np.argmin(slopes))


def two_digits(value: float) -> float:
    """Return a number with two significant digits."""
    return float(f"{value:.1e}")


def written(rate: float) -> str:
    """Return a learning rate as one writes it on a command line: `3e-3`, `2.5e-4`."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _finite(losses: Sequence[float]) -> int:
    """Return the number of losses before the first that is not finite."""
    place = _first(~np.isfinite(np.array(losses, dtype=np.float64)))
    return len(losses) if place < 0 else place


def _rises(rates: Floats) -> bool:
    return bool(rates[0] > 0 and np.all(np.diff(rates) > 0))


def _first(true: NDArray[np.bool_]) -> int:
    """Return the first place that is true; -1 if none is."""
    return int(np.argmax(true)) if true.any() else -1
