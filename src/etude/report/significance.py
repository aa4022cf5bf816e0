"""Paired significance tests between two runs on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from etude.metrics.resampling import SEED, TRIALS, paired_p_value, pooled_p_value
from etude.metrics.score import Score, Statistics
from etude.tasks.base import Task
from etude.tasks.running_sums import Row

REFERENCE_KEYS = ("references", "label", "labels")
"""Keys under which a row may hold its reference output."""

METHOD = f"ar:{TRIALS}|seed:{SEED}"
"""The test, as signatures name it."""

_OTHER_ROWS = "the rows are not the same"
_NO_ROWS = "no score is made of rows that could be exchanged"


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
        return {"why_not": _OTHER_ROWS}
    pairs = _pairs(first, other)
    if not pairs:
        return {"why_not": _NO_ROWS}
    return {
        "test": METHOD,
        "difference": {name: after.whole - before.whole for name, (before, after) in pairs.items()},
        "p": {name: paired_p_value(before, after) for name, (before, after) in pairs.items()},
    }


def pooled_differences(evaluations: Sequence[tuple[ScoredRows, ScoredRows]]) -> dict[str, Any]:
    """Test the mean difference of each score over several pairs of evaluations on the same rows, such as one for each seed.

    Args:
        evaluations: Pairs of the first and the other evaluation, at least one.

    Returns:
        What `differences` does.
    """
    if any(one.rows != evaluations[0][0].rows for pair in evaluations for one in pair):
        return {"why_not": _OTHER_ROWS}
    by_pair = [_pairs(first, other) for first, other in evaluations]
    pooled = {
        name: [pairs[name] for pairs in by_pair] for name in by_pair[0] if all(name in pairs for pairs in by_pair)
    }
    if not pooled:
        return {"why_not": _NO_ROWS}
    return {
        "test": METHOD,
        "difference": {
            name: fmean(after.whole - before.whole for before, after in pairs) for name, pairs in pooled.items()
        },
        "p": {name: pooled_p_value(pairs) for name, pairs in pooled.items()},
    }


def _pairs(first: ScoredRows, other: ScoredRows) -> dict[str, tuple[Statistics, Statistics]]:
    """Return the statistics of each score that both have and computed alike."""
    return {
        name: (before, after)
        for name, score in other.results.items()
        if (after := score.statistics) is not None
        and (before := _comparable(first.results.get(name), after)) is not None
    }


def _comparable(score: Score | None, other: Statistics) -> Statistics | None:
    """Return the statistics of a score if they were computed in the same way as the other's."""
    statistics = score.statistics if score else None
    return statistics if statistics is not None and statistics.signature == other.signature else None
