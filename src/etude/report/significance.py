"""Whether two runs differ by more than chance, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etude.metrics.resampling import SEED, TRIALS, paired_p_value
from etude.metrics.score import Score, Statistics
from etude.tasks.base import Task
from etude.tasks.running_sums import Row

WANTED = ("references", "label", "labels")
"""What a row may hold of what was wanted of it."""


@dataclass(frozen=True)
class Judged:
    """What is kept of an evaluation to compare it with another one.

    Attributes:
        results: The scores.
        rows: Id and wanted output of each row.
    """

    results: Mapping[str, Score]
    rows: list[tuple[int, Any]]

    @classmethod
    def of(cls, task: Task) -> Judged:
        """Keep what the last evaluation of a task left."""
        return cls(task.results, ids_and_wanted(task.rows))


def ids_and_wanted(rows: Sequence[Row]) -> list[tuple[int, Any]]:
    """Return the id of each row and what was wanted of it; None if the row does not hold that."""
    return [(row["id"], next((row[name] for name in WANTED if name in row), None)) for row in rows]


def differences(first: Judged, other: Judged) -> dict[str, Any]:
    """Return the difference of each score that both have, and its p-value by paired approximate randomization.

    Returns:
        `test` says how, `difference` and `p` are by the score's name; or `why_not` says why nothing can be compared.
    """
    if first.rows != other.rows:
        return {"why_not": "the rows are not the same"}
    pairs = {
        name: (before, after)
        for name, score in other.results.items()
        if (after := score.statistics) is not None and (before := _same(first.results.get(name), after)) is not None
    }
    if not pairs:
        return {"why_not": "no score is made of rows that could be exchanged"}
    return {
        "test": f"ar:{TRIALS}|seed:{SEED}",
        "difference": {name: after.whole - before.whole for name, (before, after) in pairs.items()},
        "p": {name: paired_p_value(before, after) for name, (before, after) in pairs.items()},
    }


def _same(score: Score | None, other: Statistics) -> Statistics | None:
    """Return the statistics of a score if it was computed in the same way as the other."""
    known = score.statistics if score else None
    return known if known is not None and known.signature == other.signature else None
