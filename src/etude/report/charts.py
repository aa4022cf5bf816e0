"""Charts as geometry, in the units of an SVG view box; the template turns it into markup and escapes it.

They are what a page shows where its programs do not run, and on paper (see `etude.report.interactive` for the others).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etude.report.writing import number

WIDTH, HEIGHT = 440.0, 232.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 14.0, 26.0, 26.0
POINTS = 300
"""Largest number of points of a line; a longer series keeps the lowest and highest value of each stretch."""

POINTS_OF_ALL, FEWEST_POINTS = 3000, 60
"""Largest number of points of all lines of a chart, of which each may have `FEWEST_POINTS` in any case."""

SMOOTHED = 120
"""Number of points from which a series is also shown smoothed."""

FEW = 40
"""Largest number of points of a line that are marked."""

DECADES = 1.5
"""Powers of ten that values must span for a logarithmic scale, where the chart allows one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A recorded value over a run.

    Attributes:
        name: Name in the record, such as `train/loss`.
        steps: Steps at which it was logged, [N].
        tokens: Tokens at the same times, [N].
        seconds: Seconds at the same times, [N].
        values: Values, [N]; may contain nan and infinities.
        spikes: Whether training marked the value as a spike, [N]; None: values of this name are not marked.
    """

    name: str
    steps: Floats
    tokens: Floats
    seconds: Floats
    values: Floats
    spikes: NDArray[np.bool_] | None = None

    def describe(self) -> str:
        """Return a description of the series for readers who cannot see the curve."""
        finite = np.flatnonzero(np.isfinite(self.values))
        if not len(finite):
            return f"{self.name}: no finite value."
        first, last = finite[0], finite[-1]
        low, high = (finite[pick(self.values[finite])] for pick in (np.argmin, np.argmax))
        text = (
            f"{self.name}: {number(self.values[first])} at step {self.steps[first]:,.0f}, "
            f"{number(self.values[last])} at step {self.steps[last]:,.0f}; "
            f"lowest {number(self.values[low])} at step {self.steps[low]:,.0f}, "
            f"highest {number(self.values[high])} at step {self.steps[high]:,.0f}."
        )
        if self.spikes is not None and self.spikes.any():
            text += f" Spikes at the steps {', '.join(f'{step:,.0f}' for step in self.steps[self.spikes])}."
        non_finite = len(self.values) - len(finite)
        return text + (f" {non_finite} values are not finite and are left out." if non_finite else "")


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position and label."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A drawn series: paths of its values and of the smoothed values (or empty), its points if few, and its spikes."""

    path: str
    smooth: str
    points: list[tuple[float, float]]
    spikes: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart over steps.

    Attributes:
        title: Title of the chart.
        names: Names of the curves.
        description: Description in words.
        x_ticks: Ticks of the x-axis.
        y_ticks: Ticks of the y-axis.
        curves: The curves.
    """

    title: str
    names: list[str]
    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]


def chart(title: str, series: Sequence[Series], *, logarithmic: bool = False, exact: bool = False) -> Chart:
    """Draw one or more series as a chart.

    Args:
        title: Title of the chart.
        series: The series, at least one; they may have no finite values.
        logarithmic: Whether to allow a logarithmic y-axis, which is used if the values are positive and span `DECADES`.
        exact: Whether the values have no noise, and must not be smoothed.
    """
    values = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in series])
    scale = Scale.of(values, logarithmic)
    end = max((float(curve.steps.max()) for curve in series if len(curve.steps)), default=1.0) or 1.0
    across = Scale(0.0, end, LEFT, WIDTH - RIGHT)
    most = min(POINTS, max(FEWEST_POINTS, POINTS_OF_ALL // len(series)))
    return Chart(
        title=title,
        names=[curve.name for curve in series],
        description=" ".join(curve.describe() for curve in series),
        x_ticks=across.ticks(5),
        y_ticks=scale.ticks(5),
        curves=[_curve(across(curve.steps), curve, scale, exact, most) for curve in series],
    )


@dataclass(frozen=True)
class Scale:
    """Maps values to positions between two pixels, the highest to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Floats, logarithmic: bool) -> Scale:
        """Return a y-axis with room for all values."""
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        logarithmic = logarithmic and low > sys.float_info.min and math.log10(high / low) >= DECADES
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - room, high + room, HEIGHT - BOTTOM, TOP, logarithmic)

    def __call__(self, values: Floats) -> Floats:
        """Return the positions of values, [N]; nan where a value has none."""
        if self.logarithmic:
            values = np.log10(np.where(values > 0, values, np.nan))
        values = np.where(np.isfinite(values), values, np.nan)
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int) -> list[Tick]:
        """Return ticks at round values, at most `most` of them on a linear scale."""
        if not self.logarithmic:
            rounds = round_values(self.low, self.high, most)
        elif self.high - self.low > most / 2:
            rounds = [10.0**power for power in round_values(self.low, self.high, most) if power == round(power)]
        else:
            powers = range(math.floor(self.low), math.ceil(self.high))
            rounds = [factor * 10.0**power for power in powers for factor in (1, 3)]
            rounds = [value for value in rounds if self.low <= math.log10(value) <= self.high]
        largest = max(map(abs, rounds), default=0.0)
        return [
            Tick(float(at), number(value, largest)) for at, value in zip(self(np.array(rounds)), rounds, strict=True)
        ]


def _curve(x: Floats, series: Series, scale: Scale, exact: bool, most: int) -> Curve:
    values = series.values
    keep = thinned(values, most)
    y = scale(values)
    smooth = ""
    if len(values) >= SMOOTHED and not exact:
        every = np.linspace(0, len(values) - 1, most // 2).astype(int)
        smooth = path_through(x[every], scale(moving_average(values, len(values) // 40))[every])
    points = _points(x, y) if len(values) <= FEW else []
    spikes = _points(x[series.spikes], y[series.spikes]) if series.spikes is not None else []
    return Curve(path_through(x[keep], y[keep]), smooth, points, spikes)


def _points(x: Floats, y: Floats) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True) if np.isfinite(b)]


def path_through(x: Floats, y: Floats) -> str:
    """Return the path through the points, with a gap where a point has no position."""
    commands, pen_down = [], False
    for a, b in zip(x, y, strict=True):
        if np.isfinite(b):
            commands.append(f"{'L' if pen_down else 'M'}{a:.1f} {b:.1f}")
        pen_down = bool(np.isfinite(b))
    return "".join(commands)


def thinned(values: Floats, most: int = POINTS) -> NDArray[np.int64]:
    """Return the sorted indices of at most `most` values that keep the shape.

    Of each stretch they are both extremes, and the first value that is not finite, if any value is not.
    """
    if len(values) <= most:
        return np.arange(len(values))
    finite = np.isfinite(values)
    stretches = np.array_split(np.arange(len(values)), most // (2 if finite.all() else 3))
    kept: set[int] = set()
    for stretch in stretches:
        numbers, others = stretch[finite[stretch]], stretch[~finite[stretch]]
        kept |= {int(numbers[pick(values[numbers])]) for pick in (np.argmin, np.argmax) if len(numbers)}
        kept |= {int(place) for place in others[:1]}
    return np.array(sorted(kept))


def moving_average(values: Floats, reach: int) -> Floats:
    """Return the mean of the finite values around each index, [N]; nan where there are none.

    Args:
        values: Values, [N].
        reach: Number of values before and after that are averaged. It shrinks near an end, on both sides, because an
            asymmetric window would shift a rising or falling curve; but to no less than a quarter, because a single value
            is noise.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    reaches = np.clip(np.minimum(index, index[::-1]), reach // 4, reach)
    first, past = np.maximum(index - reaches, 0), np.minimum(index + reaches + 1, len(values))
    count = counts[past] - counts[first]
    return np.where(count > 0, (sums[past] - sums[first]) / np.maximum(count, 1), np.nan)


def round_values(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` multiples of 1, 2 or 5 times a power of ten between two values, evenly spaced."""
    smallest = (high - low) / most
    power = 10.0 ** math.floor(math.log10(smallest))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
