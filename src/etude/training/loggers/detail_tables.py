"""Details of an evaluation (`etude.tasks.base.Task.details`) as tables of a tracker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

from etude.training.callbacks.validation_samples import LogsTables

Table = tuple[list[str], list[list[Any]]]
"""Columns, and rows of cells."""


def log_details(details: Mapping[str, Any], split: str, loggers: Iterable[Logger], step: int) -> None:
    """Log the details of an evaluation as tables `<split>/<name>`.

    Args:
        details: Details of the evaluation.
        split: The split that was evaluated.
        loggers: Loggers; those that show tables get them. Their `SafeLogger` reports a failure, which stops nothing.
        step: Last step of the run.
    """
    for name, (columns, rows) in tables(details).items():
        for logger in loggers:
            if rows and isinstance(logger, LogsTables):
                logger.log_table(f"{split}/{name}", columns, rows, step=step)


def log_curves(curves: Mapping[str, Table], split: str, loggers: Iterable[Logger], step: int) -> None:
    """Log the curves of an evaluation (`etude.tasks.evaluation.EvaluatedTask.curves`) as tables `<split>/<name>`.

    Args:
        curves: Tables by name.
        split: The split that was evaluated.
        loggers: Loggers; those that show tables get them.
        step: Steps done.
    """
    for name, (columns, rows) in curves.items():
        for logger in loggers:
            if rows and isinstance(logger, LogsTables):
                logger.log_table(f"{split}/{name}", columns, rows, step=step)


def tables(details: Mapping[str, Any]) -> dict[str, Table]:
    """Return a table for each kind of details that is present."""
    by_name: dict[str, Table] = {}
    if "calibration" in details:
        # As text, since a column of a tracker's table has one type.
        cells = [[name, str(value)] for name, value in details["calibration"].items()]
        by_name["calibration"] = (["name", "value"], cells)
    if "confusion" in details:
        counts = [
            [label, prediction, count]
            for label, row in details["confusion"].items()
            for prediction, count in row.items()
        ]
        by_name["confusion"] = (["label", "prediction", "count"], counts)
    if details.get("errors"):
        columns = list(details["errors"][0])
        by_name["errors"] = (columns, [[row[column] for column in columns] for row in details["errors"]])
    return by_name
