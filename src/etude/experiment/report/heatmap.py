"""Attention as a heat map: geometry only, as in `charts`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CELL = 22.0
LETTER = 6.6
"""Width of a letter, about, at the size of the labels."""

SHORTENED = 18
"""Letters of a label at most."""


@dataclass(frozen=True)
class Cell:
    """One weight: its place, its darkness between 0 and 1, and its text."""

    x: float
    y: float
    weight: float
    text: str


@dataclass(frozen=True)
class HeatMap:
    """A matrix of weights with a label for each row and column.

    Attributes:
        title: What it shows.
        width: Of the drawing.
        height: Of the drawing.
        left: Where the cells begin, from the left.
        top: Where the cells begin, from above.
        rows: Labels from above, shortened.
        columns: Labels from the left, shortened.
        cells: All of them, row by row.
    """

    title: str
    width: float
    height: float
    left: float
    top: float
    rows: list[str]
    columns: list[str]
    cells: list[Cell]


def heat_map(map_: Mapping[str, Any]) -> HeatMap:
    """Draw one attention map.

    Args:
        map_: `title`; `rows`, the tokens that attend; `columns`, the tokens attended to; `weights`, a list of numbers
            for each row.

    Raises:
        ValueError: If the weights are not one for each row and column.
        KeyError: If a part is missing.
    """
    rows, columns = [str(token) for token in map_["rows"]], [str(token) for token in map_["columns"]]
    weights = [[float(weight) for weight in row] for row in map_["weights"]]
    if len(weights) != len(rows) or any(len(row) != len(columns) for row in weights):
        sizes = sorted({len(row) for row in weights})
        raise ValueError(f"{len(weights)} rows of {sizes} weights for {len(rows)} rows and {len(columns)} columns")
    short_rows, short_columns = [_short(token) for token in rows], [_short(token) for token in columns]
    left = 10 + LETTER * max(map(len, short_rows), default=0)
    top = 10 + LETTER * max(map(len, short_columns), default=0)
    cells = [
        Cell(left + CELL * j, top + CELL * i, _between(weight), f"{row} → {column}: {weight:.3f}")
        for i, (row, line) in enumerate(zip(rows, weights, strict=True))
        for j, (column, weight) in enumerate(zip(columns, line, strict=True))
    ]
    width, height = left + CELL * len(columns) + 4, top + CELL * len(rows) + 4
    return HeatMap(str(map_["title"]), width, height, left, top, short_rows, short_columns, cells)


def _short(token: str) -> str:
    return token if len(token) <= SHORTENED else token[: SHORTENED - 1] + "…"


def _between(weight: float) -> float:
    return min(max(weight, 0.0), 1.0) if math.isfinite(weight) else 0.0
