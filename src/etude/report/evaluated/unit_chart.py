"""Charts of shares over shares, as geometry: reliability of confidences, precision over recall.

Both axes go from 0 to 1. As the other charts they are drawn without a program; each point says its values (`<title>`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from etude.metrics.precision_recall import PrecisionRecall, precision_recall
from etude.metrics.reliability import ConfidenceBin, reliability
from etude.report.charts import Scale, Tick, path_through, thinned
from etude.report.evaluated.judged_rows import JudgedClasses, JudgedLabels

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 14.0, 12.0, 40.0
TALLEST = 34.0
"""Height of the bar of the most rows."""

POINTS = 40
"""Largest number of points of a curve that say their values."""

CURVES = 4
"""Largest number of curves of a chart."""

RECALLS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Recalls in the table of precisions."""


class Point(NamedTuple):
    """A point of a curve, its radius, and what it says."""

    x: float
    y: float
    radius: float
    told: str


class CountBar(NamedTuple):
    """How many rows there are, as a bar from the foot of the chart, and what it says."""

    x: float
    width: float
    height: float
    told: str


@dataclass(frozen=True)
class UnitCurve:
    """A curve: its name, its path, and its points."""

    name: str
    path: str
    points: list[Point]


@dataclass(frozen=True)
class UnitChart:
    """A chart of shares over shares, and the same as a table.

    Attributes:
        title: Its title.
        across: What the x-axis is.
        up: What the y-axis is.
        ticks: Ticks of the x-axis.
        levels: Ticks of the y-axis.
        curves: The curves.
        bars: Counts below them.
        is_diagonal: Whether the diagonal is what is wanted.
        note: What else is said of it.
        columns: Columns of the table.
        rows: Rows of the table, as text and numbers.
    """

    title: str
    across: str
    up: str
    ticks: list[Tick]
    levels: list[Tick]
    curves: list[UnitCurve]
    bars: list[CountBar]
    is_diagonal: bool
    note: str
    columns: list[str]
    rows: list[list[str | int | float]]


_X = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
_Y = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)


def unit_charts(judged: JudgedClasses | JudgedLabels, classes: Sequence[str]) -> list[UnitChart]:
    """Return the charts of an evaluation: reliability of one class a row, precision and recall where they exist.

    Args:
        judged: Probabilities and labels.
        classes: Names of the classes; where they are not known, their numbers stand for them.
    """
    found = [reliability_chart(judged)] if isinstance(judged, JudgedClasses) else []
    named = {
        classes[number] if number < len(classes) else f"class {number}": (scores, right)
        for number, scores, right in judged.decisions()
    }
    curve = precision_recall_chart(named, together=isinstance(judged, JudgedLabels))
    return [*found, *([curve] if curve else [])]


def reliability_chart(judged: JudgedClasses) -> UnitChart:
    """Draw how often predictions are right over how sure they are, at the fitted temperature too."""
    temperatures = {"as predicted": 1.0, **({"at the temperature": judged.temperature} if judged.temperature else {})}
    bins: dict[str, list[ConfidenceBin]] = {}
    for name, temperature in temperatures.items():
        probabilities = judged.probabilities(temperature)
        bins[name] = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == judged.labels)
    most = max(one.rows for one in bins["as predicted"])
    rows: list[list[str | int | float]] = [
        [name, f"{one.low:.3f} to {one.high:.3f}", one.rows, one.confidence, one.accuracy]
        for name, found in bins.items()
        for one in found
    ]
    return UnitChart(
        title="Reliability",
        across="confidence",
        up="share that is right",
        ticks=_X.ticks(6),
        levels=_Y.ticks(6),
        curves=[_of_bins(name, found, len(judged.labels)) for name, found in bins.items()],
        bars=[_bar(one, most) for one in bins["as predicted"]],
        is_diagonal=True,
        note="On the diagonal, predictions are as often right as they are sure. Bars: how many there are.",
        columns=["probabilities", "confidence", "rows", "mean confidence", "share that is right"],
        rows=rows,
    )


def _of_bins(name: str, bins: Sequence[ConfidenceBin], total: int) -> UnitCurve:
    x, y = _X(np.array([one.confidence for one in bins])), _Y(np.array([one.accuracy for one in bins]))
    points = [
        Point(float(a), float(b), 2.5 + 6.0 * (one.rows / total) ** 0.5, f"{name}, {_said(one)}")
        for a, b, one in zip(x, y, bins, strict=True)
    ]
    return UnitCurve(name, path_through(x, y), points)


def _said(one: ConfidenceBin) -> str:
    return (
        f"confidence {one.low:.2f} to {one.high:.2f}: {one.rows:,} rows, mean {one.confidence:.3f}, "
        f"right {one.accuracy:.3f}"
    )


def _bar(one: ConfidenceBin, most: int) -> CountBar:
    begin, end = (float(at) for at in _X(np.array([one.low, one.high])))
    return CountBar(begin + 1, end - begin - 2, TALLEST * one.rows / most, _said(one))


Decisions = Mapping[str, tuple[Float64[np.ndarray, " N"], Bool[np.ndarray, " N"]]]


def precision_recall_chart(decisions: Decisions, together: bool) -> UnitChart | None:
    """Draw precision over recall of each class; None if there is nothing to find.

    Args:
        decisions: Scores of each class by its name, and where it is right.
        together: Whether to draw the decisions about all classes as one curve too, and of many classes the worst besides.
    """
    curves = {name: precision_recall(scores, right) for name, (scores, right) in decisions.items()}
    found = {name: curve for name, curve in curves.items() if curve is not None}
    if not found:
        return None
    absent = len(curves) - len(found)
    worst = sorted(found, key=lambda name: found[name].average_precision)
    drawn = {name: found[name] for name in worst[: CURVES - together]}
    if together:
        scores, right = (np.concatenate([pair[part] for pair in decisions.values()]) for part in (0, 1))
        whole = precision_recall(np.asarray(scores, np.float64), np.asarray(right, bool))
        drawn = {"all decisions": whole, **drawn} if whole else drawn
    notes = ["In brackets: average precision."]
    notes += (
        [f"Drawn are the {CURVES - together} worst of {len(found)} classes."] if len(found) > CURVES - together else []
    )
    notes += [f"Of {absent} more, no row has the class."] if absent else []
    return UnitChart(
        title="Precision and recall",
        across="recall",
        up="precision",
        ticks=_X.ticks(6),
        levels=_Y.ticks(6),
        curves=[_of_recalls(name, curve) for name, curve in drawn.items()],
        bars=[],
        is_diagonal=False,
        note=" ".join(notes),
        columns=["class", "positive", "average precision", *(f"precision at recall {recall:g}" for recall in RECALLS)],
        rows=[
            [name, one.positives, one.average_precision, *(one.at_recall(recall)[1] for recall in RECALLS)]
            for name, one in {**drawn, **{name: found[name] for name in worst}}.items()
        ],
    )


def _of_recalls(name: str, curve: PrecisionRecall) -> UnitCurve:
    keep = thinned(curve.precision)
    x, y = _X(curve.recall), _Y(curve.precision)
    told = np.unique(np.linspace(0, len(x) - 1, POINTS).astype(int))
    points = [
        Point(
            float(x[at]),
            float(y[at]),
            3.0,
            f"{name}: precision {curve.precision[at]:.3f}, recall {curve.recall[at]:.3f} from {curve.thresholds[at]:.3f} on",
        )
        for at in told
    ]
    return UnitCurve(f"{name} ({curve.average_precision:.3f})", path_through(x[keep], y[keep]), points)
