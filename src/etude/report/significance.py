"""Paired significance tests between two runs on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etude.metrics.resampling import SEED, TRIALS, paired_p_value
from etude.metrics.score import Score, Statistics
from etude.tasks.base import Task
from etude.tasks.running_sums import Row

REFERENCE_KEYS = ("references", "label", "labels")
"""Keys under which a row may hold its reference output."""


@dataclass(frozen=True)
class ScoredRows:
    """An evaluation reduced to what a paired test needs.

    Attributes:
        results: Scores by name.
        rows: Id and reference output of each row.
    """

    results: Mapping[str, Score]
    rows: list[tuple[int, Any]]

    @classmethod
    def of(cls, task: Task) -> ScoredRows:
        """Return the results of a task's last evaluation."""
        return cls(task.results, ids_and_references(task.rows))


def ids_and_references(rows: Sequence[Row]) -> list[tuple[int, Any]]:
    """Return the id and the reference output of each row; None where the row holds no reference."""
    return [(row["id"], next((row[key] for key in REFERENCE_KEYS if key in row), None)) for row in rows]


def differences(first: ScoredRows, other: ScoredRows) -> dict[str, Any]:
    """Test the difference of each score that both evaluations have, by paired approximate randomization.

    Returns:
        `test` (the method), and by score `difference` and `p`; or `why_not`, the reason why nothing can be tested.
    """
    if first.rows != other.rows:
        return {"why_not": "the rows are not the same"}
    pairs = {
        name: (before, after)
        for name, score in other.results.items()
        if (after := score.statistics) is not None
        and (before := _comparable(first.results.get(name), after)) is not None
    }
    if not pairs:
        return {"why_not": "no score is made of rows that could be exchanged"}
    return {
        "test": f"ar:{TRIALS}|seed:{SEED}",
        "difference": {name: after.whole - before.whole for name, (before, after) in pairs.items()},
        "p": {name: paired_p_value(before, after) for name, (before, after) in pairs.items()},
    }


def _comparable(score: Score | None, other: Statistics) -> Statistics | None:
    """Return the statistics of a score if they were computed in the same way as the other's."""
    statistics = score.statistics if score else None
    return statistics if statistics is not None and statistics.signature == other.signature else None
