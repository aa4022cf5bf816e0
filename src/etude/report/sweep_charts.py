"""Charts of a sweep as geometry: parallel coordinates, the history of the best, every member's validations.

As those of a run they are drawn without a program; what the pointer is on is named by the browser (`<title>`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.report.charts import DECADES, Floats, Scale, Tick, thinned
from etude.report.writing import mean_and_deviation, number
from etude.sweeps.space import Label, setting
from etude.sweeps.sweep_results import SweepResults, TrialResult

SHADES = 10
"""Number of colours between those of the best and the worst trial."""

ABSENT = "–"
"""What stands for the value of a parameter that a trial does not have."""

_LONGEST_LABEL = 18
_LETTER = 7.8
"""Width of a letter of a label."""


@dataclass(frozen=True)
class Frame:
    """The place of a chart in its view box."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


PARALLEL = Frame(960, 330, 90, 870, 44, 290)
HALF = Frame(440, 232, 50, 426, 26, 206)
WIDE = Frame(960, 330, 56, 946, 26, 300)


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        path: Its path.
        title: What it is.
        kind: Its class in the style sheet.
    """

    path: str
    title: str
    kind: str


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: its place, its whole name and what is shown of it, and its ticks."""

    at: float
    name: str
    label: str
    ticks: list[Tick]


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: an axis for each parameter and the score, and a line for each trial, the best drawn last."""

    frame: Frame
    axes: list[Axis]
    lines: list[Line]


@dataclass(frozen=True)
class Mark:
    """A point of a chart, what it is, and its class in the style sheet."""

    x: float
    y: float
    title: str
    kind: str


@dataclass(frozen=True)
class Plot:
    """A chart with one pair of axes; what matters most is drawn last."""

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    unit: str
    lines: list[Line]
    marks: list[Mark]


def described(trial: TrialResult, varied: Sequence[str]) -> str:
    """Return a trial in a line: its number, values and score."""
    parts = [f"{name}={setting(trial.assignment[name])}" for name in varied if name in trial.assignment]
    if trial.score is not None:
        parts.append(f"{trial.metric or 'validation'} {mean_and_deviation(trial.score.mean, trial.score.sd)}")
    return f"trial {trial.number}: {', '.join(parts)}" + ("" if trial.state == "finished" else f" ({trial.state})")


def parallel_coordinates(results: SweepResults) -> Parallel | None:
    """Draw each trial as a line through its values and its score; None if nothing varies or there is no score.

    The colour is that of its rank: a few trials that diverged must not make all others look alike.
    """
    scored = [trial for trial in results.trials if trial.score is not None]
    if results.metric is None or not results.varied or not scored:
        return None
    frame, names = PARALLEL, results.varied
    places = np.linspace(frame.left, frame.right, len(names) + 1)
    positions = {name: _Positions.of(results, name, frame) for name in names}
    scores = np.array([trial.score.mean for trial in scored if trial.score is not None])
    scale = _between(float(scores.min()), float(scores.max()), frame)
    axes = [
        Axis(float(at), name, _short(name, len(places)), positions[name].ticks)
        for at, name in zip(places[:-1], names, strict=True)
    ]
    axes.append(Axis(float(places[-1]), results.metric, _short(results.metric, len(places)), scale.ticks(6)))
    lines = []
    for rank, trial in enumerate(scored):
        heights = [positions[name].at(trial, name) for name in names] + [
            float(scale(np.array([trial.score.mean]))[0]) if trial.score else math.nan
        ]
        kind = "best" if trial is results.best else f"shade-{round(SHADES * rank / max(1, len(scored) - 1))}"
        lines.append(Line(_path(zip(places, heights, strict=True)), described(trial, names), kind))
    return Parallel(frame, axes, lines[::-1])


@dataclass(frozen=True)
class _Positions:
    """Where the values of a parameter are on its axis: on a scale, or one beside the other."""

    scale: Scale | None
    heights: Mapping[str, float]
    ticks: list[Tick]

    @classmethod
    def of(cls, results: SweepResults, name: str, frame: Frame) -> _Positions:
        domain = results.domain(name)
        held = [trial.assignment[name] for trial in results.trials if name in trial.assignment]
        absent = len(held) < len(results.trials)
        if "low" in domain and "high" in domain:
            scale = _between(float(domain["low"]), float(domain["high"]), frame, bool(domain.get("log")))
            ticks = scale.ticks(6)
            return cls(
                scale, {ABSENT: frame.bottom + 22}, [*ticks, *([Tick(frame.bottom + 22, ABSENT)] if absent else [])]
            )
        known = [value[0] for value in domain.get("values", [])] or _in_order(held)
        labels = list(dict.fromkeys([*map(_key, known), *map(_key, held)]))
        count = len(labels)
        steps = np.linspace(frame.bottom, frame.top, count) if count > 1 else [(frame.bottom + frame.top) / 2]
        heights = {key: float(at) for key, at in zip(labels, steps, strict=True)}
        texts = {_key(value): _short(setting(value), len(results.varied) + 1) for value in [*known, *held]}
        ticks = [Tick(at, texts[key]) for key, at in heights.items()]
        if absent:
            heights[ABSENT] = frame.bottom + 22
            ticks.append(Tick(frame.bottom + 22, ABSENT))
        return cls(None, heights, ticks)

    def at(self, trial: TrialResult, name: str) -> float:
        if name not in trial.assignment:
            return self.heights[ABSENT]
        value = trial.assignment[name]
        if self.scale is None:
            return self.heights[_key(value)]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(self.scale(np.array([float(value) if is_number else math.nan]))[0])  # type: ignore[arg-type]


def _key(value: Any) -> str:
    """Return what tells a value from others: 1 from true and from the text."""
    return f"{type(value).__name__} {value!r}"


def _in_order(values: Iterable[Label]) -> list[Label]:
    """Return the distinct values, numbers by size."""
    distinct = list({_key(value): value for value in values}.values())
    numbers = all(isinstance(value, int | float) for value in distinct)
    return sorted(distinct, key=float) if numbers else distinct  # type: ignore[arg-type]


def _between(low: float, high: float, frame: Frame, logarithmic: bool = False) -> Scale:
    """Return an axis from the foot of a frame to its head."""
    if low == high:
        low, high = low - (0.5 * abs(low) or 0.5), high + (0.5 * abs(high) or 0.5)
        logarithmic = logarithmic and low > 0
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    return Scale(low, high, frame.bottom, frame.top, logarithmic)


def _short(text: str, axes: int) -> str:
    """Return a name as it fits between two of so many axes: of a long dotted one, its end."""
    most = min(_LONGEST_LABEL, max(4, int((PARALLEL.right - PARALLEL.left) / max(1, axes - 1) / _LETTER)))
    last = text if len(text) <= most else text.rpartition(".")[2]
    return last if len(last) <= most else f"{last[: most - 1]}…"


def history(results: SweepResults) -> Plot | None:
    """Draw the score of each trial in the order in which they were begun, and the best so far; None of fewer than two."""
    scored = sorted((trial for trial in results.trials if trial.score), key=lambda trial: trial.number)
    if results.metric is None or len(scored) < 2:
        return None
    frame, sign = HALF, -1.0 if results.sweep.document.mode == "max" else 1.0
    values = np.array([trial.score.mean for trial in scored if trial.score])
    numbers = np.array([float(trial.number) for trial in scored])
    scale = _room(values, frame)
    across = Scale(float(numbers.min()), float(numbers.max()), frame.left, frame.right)
    x, y = across(numbers), scale(values)
    best = scale(sign * np.minimum.accumulate(sign * values))
    steps = [(x[0], best[0])]
    for place in range(1, len(x)):
        steps += [(x[place], best[place - 1]), (x[place], best[place])]
    marks = [
        Mark(float(a), float(b), described(trial, results.varied), "best" if trial is results.best else trial.state)
        for a, b, trial in zip(x, y, scored, strict=True)
    ]
    ticks = [tick for tick in across.ticks(6) if "." not in tick.label]
    return Plot(frame, ticks, scale.ticks(5), "trial", [Line(_path(steps), "the best so far", "leader")], marks)


def member_curves(
    results: SweepResults, recorded: Mapping[int, tuple[Sequence[float], Sequence[float]]]
) -> Plot | None:
    """Draw the validations of each member over its steps; None if there is no validation.

    Args:
        results: What the sweep has come to.
        recorded: Steps and scores of each member's validations, by its number.
    """
    every = [np.array(values, dtype=np.float64) for _, values in recorded.values()]
    finite = np.concatenate([values[np.isfinite(values)] for values in every]) if every else np.array([])
    if not len(finite):
        return None
    frame = WIDE
    scale = _room(finite, frame)
    last = max((steps[-1] for steps, _ in recorded.values() if len(steps)), default=1.0)
    across = Scale(0.0, float(last) or 1.0, frame.left, frame.right)
    lines, marks = [], []
    for trial in reversed(results.trials):
        for member in trial.members:
            number_of = member.document.number
            steps, values = (np.array(one, dtype=np.float64) for one in recorded.get(number_of, ((), ())))
            kind = "best" if trial is results.best else member.state
            title = f"member {number_of:03d} of {described(trial, results.varied)}"
            keep = thinned(values)
            x, y = across(steps[keep]), scale(values[keep])
            lines.append(Line(_path(zip(x, y, strict=True)), title, kind))
            if kind == "best" or len(values) == 1:  # one value is no line
                marks += [Mark(float(a), float(b), title, kind) for a, b in zip(x, y, strict=True) if np.isfinite(b)]
    return Plot(frame, across.ticks(8), scale.ticks(6), "steps", [line for line in lines if line.path], marks)


def _room(values: Floats, frame: Frame) -> Scale:
    """Return a y-axis with room for all values, logarithmic if they span `DECADES`."""
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0 and math.log10(high / low) >= DECADES
    scale = _between(low, high, frame, logarithmic)
    room = 0.05 * (scale.high - scale.low)
    return Scale(scale.low - room, scale.high + room, frame.bottom, frame.top, logarithmic)


def _path(points: Iterable[tuple[float, float]]) -> str:
    """Return the path through points, with a gap where one has no position."""
    commands, pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            commands.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = math.isfinite(y)
    return "".join(commands)


@dataclass(frozen=True)
class Bar:
    """The importance of a parameter: its name, its share in words, and the length of its bar."""

    name: str
    share: str
    length: float


def importance_bars(importances: Mapping[str, float], width: float = 220.0) -> list[Bar]:
    """Return a bar for each parameter, the most important first, whose bar is as long as `width`."""
    most = max(importances.values(), default=0.0) or 1.0
    ordered = sorted(importances.items(), key=lambda pair: -pair[1])
    return [Bar(name, number(round(share, 3)), width * share / most) for name, share in ordered]
