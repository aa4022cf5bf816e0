"""What a road found, as a table and as a page with a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etude import __version__
from etude.experiment.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick
from etude.experiment.report.page import environment
from etude.experiment.report.writing import score

ENDS = 24.0
"""Between the sides of the plot and the first and the last point."""

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
"""Distances of the lines of the plot; the first one that makes five lines or fewer is taken."""


@dataclass(frozen=True)
class Cell:
    """The scores of fine-tunings that differ in their seeds.

    Attributes:
        start: Where they started.
        examples: How many training examples they had.
        scores: In the order of the seeds.
    """

    start: str
    examples: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Their standard deviation, as of a sample; 0 of one score."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the cell as plain values."""
        return {**asdict(self), "scores": list(self.scores), "mean": self.mean, "deviation": self.deviation}

    def __str__(self) -> str:
        """Return `0.7312 ± 0.0105`."""
        return score(self.mean) + (f" ± {score(self.deviation)}" if len(self.scores) > 1 else "")


@dataclass(frozen=True)
class Line:
    """The curve of a start: its path, and at each point x, y and the ends of the standard deviation."""

    name: str
    path: str
    points: list[tuple[float, float, float, float]]


def table_of(cells: Sequence[Cell]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the starts, and for each number of examples the cells of all starts."""
    starts = list(dict.fromkeys(cell.start for cell in cells))
    sizes = sorted({cell.examples for cell in cells})
    found = {(cell.start, cell.examples): str(cell) for cell in cells}
    return starts, [(size, [found[start, size] for start in starts]) for size in sizes]


def road_table(metric: str, cells: Sequence[Cell]) -> str:
    """Return the means ± standard deviations as Markdown: a row for each number of examples."""
    starts, rows = table_of(cells)
    seeds = len(cells[0].scores)
    lines = [["examples", *starts], ["---:", *("---:" for _ in starts)]]
    lines += [[f"{size:,}", *row] for size, row in rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{metric}, mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}\n\n{body}\n"


def road_page(folder: Path, metric: str, cells: Sequence[Cell]) -> str:
    """Return one page with the table and a plot: the score over the number of examples, on a logarithmic scale."""
    starts, rows = table_of(cells)
    x_ticks, y_ticks, lines = _plot(cells)
    return (
        environment()
        .get_template("road.html.jinja")
        .render(
            folder=folder.resolve(),
            metric=metric,
            seeds=len(cells[0].scores),
            starts=starts,
            rows=rows,
            x_ticks=x_ticks,
            y_ticks=y_ticks,
            lines=lines,
            frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM},
            version=__version__,
        )
    )


def _plot(cells: Sequence[Cell]) -> tuple[list[Tick], list[Tick], list[Line]]:
    sizes = sorted({cell.examples for cell in cells})
    low = min(cell.mean - cell.deviation for cell in cells)
    high = max(cell.mean + cell.deviation for cell in cells)
    step = next((step for step in STEPS if (high - low) / step <= 4), STEPS[-1])
    bottom, top = step * math.floor(low / step), step * math.ceil(high / step + 1e-9)
    span = math.log(sizes[-1] / sizes[0]) or 1.0

    def across(examples: int) -> float:
        return LEFT + ENDS + (WIDTH - LEFT - RIGHT - 2 * ENDS) * math.log(examples / sizes[0]) / span

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - bottom) / (top - bottom or 1.0)

    lines = []
    for start in dict.fromkeys(cell.start for cell in cells):
        own = sorted((cell for cell in cells if cell.start == start), key=lambda cell: cell.examples)
        points = [
            (across(cell.examples), up(cell.mean), up(cell.mean - cell.deviation), up(cell.mean + cell.deviation))
            for cell in own
        ]
        lines.append(Line(start, "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y, *_ in points), points))
    values = [bottom + step * number for number in range(round((top - bottom) / step) + 1)]
    return [Tick(across(size), f"{size:,}") for size in sizes], [Tick(up(v), f"{v:.4g}") for v in values], lines
