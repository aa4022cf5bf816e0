"""What an evaluation tells of its rows besides scores, for dashboards: see `etude.tasks.base.Task.details`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

from etude.training.callbacks.validation_samples import LogsTables

Table = tuple[list[str], list[list[Any]]]
"""Columns, and rows of cells."""


def log_details(details: Mapping[str, Any], split: str, loggers: Iterable[Logger], step: int) -> None:
    """Show the details of an evaluation as tables `<split>/<name>`, where a logger shows tables.

    Args:
        details: Those of the evaluation.
        split: The split that was evaluated.
        loggers: Get the tables. One that fails is told of by its guard, `SafeLogger`, and stops nothing.
        step: That the run has come to.
    """
    for name, (columns, rows) in tables(details).items():
        for logger in loggers:
            if rows and isinstance(logger, LogsTables):
                logger.log_table(f"{split}/{name}", columns, rows, step=step)


def tables(details: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables that details are shown as; what is not there has none."""
    found: dict[str, Table] = {}
    if "calibration" in details:
        # As texts, since a column of a dashboard's table has one type.
        cells = [[name, str(value)] for name, value in details["calibration"].items()]
        found["calibration"] = (["name", "value"], cells)
    if "confusion" in details:
        counted = [[right, made, n] for right, row in details["confusion"].items() for made, n in row.items()]
        found["confusion"] = (["label", "prediction", "count"], counted)
    if details.get("errors"):
        columns = list(details["errors"][0])
        found["errors"] = (columns, [[row[column] for column in columns] for row in details["errors"]])
    return found
