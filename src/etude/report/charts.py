"""Charts as geometry, in the units of an SVG view box; the template turns it into markup and escapes it.

A chart needs no program in the page: each of the three x-axes has its own drawing, and the readings under the pointer are
drawn in advance at up to forty places and revealed by the style sheet.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from etude.report.writing import number, time_unit

WIDTH, HEIGHT = 440.0, 232.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 14.0, 26.0, 26.0
POINTS = 300
"""Largest number of points of a line; a longer series keeps the lowest and highest value of each stretch."""

SMOOTHED = 120
"""Number of points from which a series is also shown smoothed."""

PROBES = 40
"""Largest number of readings of a chart."""

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
class Probe:
    """A reading under the pointer: its strip [left, left + width), the position of its line, and its text."""

    left: float
    width: float
    at: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart over one x-axis, `step`, `tokens` or `seconds`, labelled in a unit."""

    axis: str
    unit: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    probes: list[Probe]


@dataclass(frozen=True)
class Chart:
    """A chart with a drawing for each x-axis.

    Attributes:
        title: Title of the chart.
        names: Names of the curves.
        description: Description in words.
        drawings: Drawings over steps, tokens and seconds.
    """

    title: str
    names: list[str]
    description: str
    drawings: list[Drawing]


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
    seconds, time = time_unit(max((curve.seconds[-1] for curve in series if len(curve.seconds)), default=0.0))
    axes = [
        ("step", "steps", [curve.steps for curve in series]),
        ("tokens", "tokens", [curve.tokens for curve in series]),
        ("seconds", time, [curve.seconds / seconds for curve in series]),
    ]
    return Chart(
        title=title,
        names=[curve.name for curve in series],
        description=" ".join(curve.describe() for curve in series),
        drawings=[_drawing(axis, unit, places, series, scale, exact) for axis, unit, places in axes],
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


def _drawing(
    axis: str, unit: str, places: Sequence[Floats], series: Sequence[Series], scale: Scale, exact: bool
) -> Drawing:
    end = max((float(place.max()) for place in places if len(place)), default=1.0) or 1.0
    across = Scale(0.0, end, LEFT, WIDTH - RIGHT)
    curves = [_curve(across(place), curve, scale, exact) for place, curve in zip(places, series, strict=True)]
    probes = _probes(places, series, across, unit)
    return Drawing(axis, unit, across.ticks(5), scale.ticks(5), curves, probes)


def _curve(x: Floats, series: Series, scale: Scale, exact: bool) -> Curve:
    values = series.values
    keep = thinned(values)
    y = scale(values)
    smooth = ""
    if len(values) >= SMOOTHED and not exact:
        every = np.linspace(0, len(values) - 1, POINTS // 2).astype(int)
        smooth = path_through(x[every], scale(moving_average(values, len(values) // 40))[every])
    points = _points(x, y) if len(values) <= PROBES else []
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


def _probes(places: Sequence[Floats], series: Sequence[Series], across: Scale, unit: str) -> list[Probe]:
    """Return readings at the points of the longest series, or at `PROBES` of them."""
    longest = max(places, key=len)
    if not len(longest):
        return []
    chosen = longest[np.unique(np.linspace(0, len(longest) - 1, min(PROBES, len(longest))).astype(int))]
    at = across(chosen)
    edges = [LEFT, *((left + right) / 2 for left, right in pairwise(at)), WIDTH - RIGHT]
    return [
        Probe(float(left), float(right - left), float(middle), _reading(place, places, series, unit))
        for place, middle, (left, right) in zip(chosen, at, pairwise(edges), strict=True)
    ]


def _reading(place: float, places: Sequence[Floats], series: Sequence[Series], unit: str) -> str:
    """Return the text of a reading: the last value of each series up to a place."""
    parts = [f"{number(place)} {unit}"]
    for positions, curve in zip(places, series, strict=True):
        index = int(np.searchsorted(positions, place, side="right")) - 1
        if index >= 0:
            parts.append(f"{curve.name} {number(curve.values[index])}")
    return "   ".join(parts)


def thinned(values: Floats) -> NDArray[np.int64]:
    """Return the sorted indices of at most `POINTS` values that keep the shape: both extremes of each stretch."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), POINTS // 2)
    comparable = np.where(np.isnan(values), np.inf, values)
    extremes = {int(stretch[pick(comparable[stretch])]) for stretch in stretches for pick in (np.argmin, np.argmax)}
    return np.array(sorted(extremes))


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
