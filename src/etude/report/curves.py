"""Which values of a run's record are drawn, in which charts, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from etude.report.charts import Series
from etude.report.interactive import Drawn
from etude.runs.record import WALL_CLOCK, Event

TITLES = {
    "train/loss": "Loss",
    "val/loss": "Loss",
    "train/learning_rate": "Learning rate",
    "train/gradient_norm": "Gradient norm",
    "train/skipped_steps": "Skipped steps",
    "speed/tokens_per_second": "Tokens per second",
    "speed/utilisation": "Model FLOPs utilisation",
    "speed/padding": "Share of padding",
    "speed/memory_mb": "Largest memory so far, MiB",
    "speed/gpu_memory_mb": "Largest memory so far, MiB",
}
"""Titles of charts; values with the same title are drawn together."""

BY_LAYER = {
    "train/gradient_norm/": "Gradient norm by layer",
    "train/weight_norm/": "Weight norm by layer",
    "train/update_norm/": "Update norm by layer",
    "train/learning_rate/": "Learning rate by layer",
}
"""Titles of charts by the beginning of the names of their values."""

EXACT = ("Learning rate", "Skipped steps")
"""Titles of charts whose values have no noise and are never smoothed."""

SPIKE = "train/spike"
"""Name of the recorded value that marks a step's loss as a spike."""


def charts_of(events: Sequence[Event], metric: str) -> list[Drawn]:
    """Return charts of all values that were recorded more than once, the most important first.

    Args:
        events: Events of a run.
        metric: Name of the score that selects the best checkpoint.
    """
    names = list(dict.fromkeys(name for event in events for name in event.values))
    shown = [name for name in names if name not in ("epoch", SPIKE) and not name.startswith("test/")]
    groups: dict[str, list[Series]] = {}
    for name in sorted(shown, key=lambda name: _rank(name, metric)):
        groups.setdefault(_title(name), []).append(_series(events, name))
    return [
        Drawn(title, [(0, one) for one in series], title in EXACT, title not in (*EXACT, "Loss"))
        for title, series in groups.items()
        if max(len(curve.values) for curve in series) > 1
    ]


def overlaid(runs: Mapping[int, Sequence[Drawn]]) -> list[Drawn]:
    """Return charts by title, each with the curves of all runs that have it, by the numbers of the runs."""
    found: dict[str, Drawn] = {}
    for number, charts in runs.items():
        for chart in charts:
            earlier = list(found[chart.title].curves) if chart.title in found else []
            curves = [*earlier, *((number, series) for _, series in chart.curves)]
            found[chart.title] = Drawn(chart.title, curves, chart.exact, chart.logarithmic)
    return list(found.values())


def _title(name: str) -> str:
    by_layer = (title for beginning, title in BY_LAYER.items() if name.startswith(beginning))
    return next(by_layer, TITLES.get(name, name))


def _rank(name: str, metric: str) -> tuple[int, int]:
    """Sort key: losses, the main metric, other validation scores, other training values, speed."""
    order = list(TITLES)
    position = order.index(name) if name in order else len(order)
    if name in ("train/loss", "val/loss"):
        return 0, position
    if name == metric:
        return 1, 0
    if name.startswith("val/"):
        return 2, 0
    return (4, position) if name.startswith(WALL_CLOCK) else (3, position)


def _series(events: Iterable[Event], name: str) -> Series:
    events = [event for event in events if name in event.values]
    points = [(event.step, event.tokens, event.seconds, event.values[name]) for event in events]
    steps, tokens, seconds, values = np.array(points, dtype=np.float64).T
    spikes = np.array([SPIKE in event.values for event in events]) if name == "train/loss" else None
    return Series(name, steps, tokens, seconds, values, spikes)
