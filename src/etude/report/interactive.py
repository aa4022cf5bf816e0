"""Curves that answer the pointer: the data of runs, and BokehJS to draw them, packed into a page that needs no network.

Library and data are compressed blocks of the page, which a short program (`curves.js`) unpacks. Another one (`page.js`) sorts
tables, and tells what is below the pointer. A page's policy lets these programs run, by their hashes, and no other: whatever a
run has written cannot.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from etude.report.charts import Floats, Series, thinned

EVENTS = 20_000
"""Largest number of events of a page that are all drawn; of more, each stretch keeps its lowest and highest value."""

FEWEST = 400
"""Number of values that a curve keeps in any case."""

_LIBRARIES = ("bokeh.min.js", "bokeh-api.min.js")
_DIGITS = 6


@dataclass(frozen=True)
class Drawn:
    """A chart of some runs.

    Attributes:
        title: Its title.
        curves: Its curves, each with the number of its run.
        exact: Whether values have no noise, and are never smoothed.
        logarithmic: Whether the drawing without a program may have a logarithmic scale.
    """

    title: str
    curves: Sequence[tuple[int, Series]]
    exact: bool = False
    logarithmic: bool = False


@dataclass(frozen=True)
class Interactive:
    """What a page with such curves holds besides its text.

    Attributes:
        library: BokehJS, compressed, in base64.
        data: The curves, in the same form.
        program: The program that draws them.
    """

    library: str
    data: str
    program: str


def interactive(names: Sequence[str], charts: Sequence[Drawn]) -> Interactive:
    """Pack curves for a page.

    Args:
        names: Names of the runs.
        charts: The charts, in their order.
    """
    content = json.dumps(curve_data(names, charts), separators=(",", ":"), allow_nan=False)
    return Interactive(_library()[0], _packed(content), program("curves.js"))


def page_policy(packed: Interactive | None) -> str:
    """Return the content security policy of a page: what runs in it, with curves that answer the pointer or without."""
    allowed = [_hash(program("page.js"))]
    if packed is not None:
        allowed += [_library()[1], _hash(packed.program)]
    return f"default-src 'none'; script-src {' '.join(allowed)}; style-src 'unsafe-inline'; img-src data:"


def curve_data(names: Sequence[str], charts: Sequence[Drawn]) -> dict[str, Any]:
    """Return what `curves.js` reads: runs with the places of their events, and charts with the values there.

    A value that is not finite is null, and said in `lost`, by its place among the values; `spikes` has the places of spikes.
    """
    most = max(FEWEST, EVENTS // max(1, len(names)))
    kept: list[list[list[Floats]]] = [[] for _ in names]
    curves = []
    for chart in charts:
        for number, series in chart.curves:
            chosen = thinned(series.values, most)
            places = np.stack([series.steps[chosen], series.tokens[chosen], series.seconds[chosen]])
            kept[number].append([places])
            spikes = [] if series.spikes is None else np.flatnonzero(series.spikes[chosen]).tolist()
            curves.append((number, places, series.values[chosen], spikes))
    runs = [_places([places for (places,) in each]) for each in kept]
    rows = iter(curves)
    return {
        "runs": [{"name": name, **_axes(places)} for name, places in zip(names, runs, strict=True)],
        "charts": [
            {
                "title": chart.title,
                "exact": chart.exact,
                "description": " ".join(series.describe() for _, series in chart.curves),
                "curves": [{"name": series.name, **_curve(*next(rows), runs)} for _, series in chart.curves],
            }
            for chart in charts
        ],
    }


def _places(of_curves: Sequence[Floats]) -> Floats:
    """Return the different places of a run's curves, [3, N]: step, tokens and seconds, in the order of the steps."""
    if not of_curves:
        return np.zeros((3, 0))
    return np.unique(np.concatenate(of_curves, axis=1), axis=1)


def _axes(places: Floats) -> dict[str, list[float]]:
    steps, tokens, seconds = places
    return {
        "step": steps.astype(int).tolist(),
        "tokens": tokens.astype(int).tolist(),
        "seconds": seconds.round(1).tolist(),
    }


def _curve(
    number: int, places: Floats, values: Floats, spikes: Sequence[int], runs: Sequence[Floats]
) -> dict[str, Any]:
    run = runs[number]
    order = {tuple(column): index for index, column in enumerate(run.T.tolist())}
    at = [order[tuple(column)] for column in places.T.tolist()]
    lost = {str(index): str(value) for index, value in enumerate(values.tolist()) if not np.isfinite(value)}
    curve: dict[str, Any] = {"run": number, "values": [_shortened(value) for value in values.tolist()]}
    if at != list(range(run.shape[1])):
        curve["at"] = at
    return {**curve, **({"lost": lost} if lost else {}), **({"spikes": list(spikes)} if spikes else {})}


def _shortened(value: float) -> float | None:
    """Return a value with as many digits as a page shows; None if it is not finite."""
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None


@cache
def _library() -> tuple[str, str]:
    """Return BokehJS, packed, and its hash in the form of a content security policy."""
    found = importlib.util.find_spec("bokeh")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'bokeh'", name="bokeh")
    folder = Path(found.origin).parent / "server" / "static" / "js"
    text = "\n".join(
        (folder / name).read_text(encoding="utf-8").partition("\n//# sourceMappingURL")[0] for name in _LIBRARIES
    )
    return _packed(text), _hash(text)


@cache
def program(name: str) -> str:
    """Return a program of the pages by the name of its file."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    # Without a time stamp: equal runs make equal pages.
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _hash(program: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()}'"
