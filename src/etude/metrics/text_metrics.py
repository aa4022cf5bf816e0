"""Metrics of texts against references, as named under `task.metrics`, and the scores of a corpus by all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from etude.errors import DataError
from etude.metrics.resampling import all_scored
from etude.metrics.score import Score, Statistics


class TextMetric(Protocol):
    """A metric of texts against references.

    Attributes:
        PARTS: Names of its scores, `""` for a single one: under the name `rouge`, the part `1` is `rouge_1`. A literal, so
            that a configuration's `validate.metric` is checked without importing anything.
    """

    PARTS: ClassVar[tuple[str, ...]]

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return the statistics of each part.

        Args:
            outputs: Text of each row.
            references: One or more references of each row.
        """
        ...


def text_scores(
    metrics: Mapping[str, TextMetric],
    outputs: Sequence[str],
    references: Sequence[Sequence[str]],
    bootstrap: int = 0,
) -> dict[str, Score]:
    """Return the scores of a corpus by all metrics.

    Args:
        metrics: Metrics by the names of their scores.
        outputs: Text of each row.
        references: One or more references of each row.
        bootstrap: Number of resamplings for 95 % confidence intervals; 0: no intervals.

    Raises:
        DataError: As in `text_statistics`.
    """
    return all_scored(text_statistics(metrics, outputs, references), bootstrap)


def text_statistics(
    metrics: Mapping[str, TextMetric], outputs: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Statistics]:
    """Return the statistics of a corpus by all metrics, by the names of the scores.

    Args:
        metrics: Metrics by the names of their scores.
        outputs: Text of each row.
        references: One or more references of each row.

    Raises:
        DataError: If there is no row, a row has no reference, or outputs and references are not equally many.
    """
    if not outputs or len(outputs) != len(references):
        raise DataError(
            f"{len(outputs)} outputs cannot be scored against {len(references)} rows of references; "
            "give one row of references for each output, and at least one"
        )
    without = next((number for number, row in enumerate(references, 1) if not row), None)
    if without is not None:
        raise DataError(f"row {without} has no reference to be scored against")
    return {
        f"{name}_{part}" if part else name: statistics
        for name, metric in metrics.items()
        for part, statistics in metric.statistics(outputs, references).items()
    }
