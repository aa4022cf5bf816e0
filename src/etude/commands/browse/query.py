"""`etude query`: SQL over all runs, by SQLite in memory.

The standard library's SQLite is enough: it reads 500,000 values of 50 runs in less time than a person waits, and brings no
package. What a statement needs is read when it is asked, so that nothing can be out of date, and nothing can be written.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from etude.commands.browse.inventory import Inventory, read_inventory
from etude.commands.browse.tabular import ShownColumn, formatted, tabular_format
from etude.config.annotations import written
from etude.config.values import flat
from etude.errors import ConfigurationError, DataError
from etude.runs.folder import EVALUATIONS
from etude.runs.reading import read_evaluation
from etude.runs.record import RECORD, read_values
from etude.runs.run_row import RunRow

TABLES: Mapping[str, Mapping[str, str]] = {
    "runs": {
        "run": "TEXT: its folder below that of all runs, such as translation/demo/first",
        "folder": "TEXT",
        "experiment": "TEXT",
        "task": "TEXT",
        "sweep": "TEXT: name of the sweep that it is a member of",
        "state": "TEXT: begun, prepared, running, interrupted, failed, pruned or finished",
        "reason": "TEXT: why it ended or failed",
        "seed": "INTEGER",
        "metric": "TEXT: the score that says which checkpoint is best",
        "mode": "TEXT: min or max",
        "score": "REAL: the best of its validations",
        "step": "INTEGER: steps that are recorded",
        "tokens": "INTEGER",
        "seconds": "REAL: of training",
        "energy_joules": "REAL",
        "flops": "REAL",
        "parameters": "INTEGER",
        "written": "TEXT: when it last wrote something, in local time",
    },
    "config": {
        "run": "TEXT",
        "key": "TEXT: dotted, such as optimizer.lr",
        "value": "TEXT: as it would be written",
        "number": "REAL: the value, where it is a number",
    },
    "metrics": {
        "run": "TEXT",
        "step": "INTEGER",
        "tokens": "INTEGER",
        "seconds": "REAL",
        "name": "TEXT: such as train/loss",
        "value": "REAL: null where it is not a number",
    },
    "scores": {
        "run": "TEXT",
        "evaluation": "TEXT: the split, or the name of a file in evaluations/",
        "name": "TEXT: such as test/bleu",
        "value": "REAL",
        "low": "REAL: of the 95 % interval",
        "high": "REAL",
        "examples": "INTEGER",
        "checkpoint": "TEXT",
        "signature": "TEXT: how it was computed",
    },
}
"""The tables, and what their columns hold; each begins with its type."""

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})


@dataclass(frozen=True)
class QueryAnswer:
    """What a statement gives.

    Attributes:
        text: Its rows.
        problems: A line for each run that could not be read.
    """

    text: str
    problems: list[str]


def query_runs(
    statement: str,
    outputs: Path,
    *,
    format: str = "table",  # noqa: A002 (the name that people type)
    width: int | None = None,
) -> QueryAnswer:
    """Run one SQL statement over all runs; see `TABLES`.

    Args:
        statement: One `select`.
        outputs: Folder of all runs.
        format: `table`, `markdown`, `csv` or `json`.
        width: Characters of a line of a table; None: as wide as it is.

    Raises:
        ConfigurationError: If the statement is wrong, or does anything but read.
    """
    output_format = tabular_format(format, "etude query")
    inventory = read_inventory(outputs.resolve())
    connection = sqlite3.connect(":memory:")
    try:
        _fill(connection, statement, inventory)
        connection.set_authorizer(_only_reads)
        cursor = connection.execute(statement)
        names = _distinct([column[0] for column in cursor.description or ()])
        records = [dict(zip(names, row, strict=True)) for row in cursor]
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ConfigurationError(f"{_advice(str(error))} (the statement {statement!r})") from error
    finally:
        connection.close()
    numeric = {name for name in names if all(isinstance(one[name], int | float | None) for one in records)}
    columns = [ShownColumn(name, right=name in numeric) for name in names]
    return QueryAnswer(formatted(records, columns, output_format, width), inventory.problems)


def tables_text() -> str:
    """Return the tables and their columns as text."""
    lines = []
    for table, columns in TABLES.items():
        width = max(map(len, columns))
        lines += [table, *(f"  {name:<{width}}  {meaning}" for name, meaning in columns.items()), ""]
    return "\n".join(lines)


def _fill(connection: sqlite3.Connection, statement: str, inventory: Inventory) -> None:
    """Make the tables, and fill those that the statement may mean."""
    contents = {"runs": _run_row, "config": _config_rows, "metrics": _metric_rows, "scores": _score_rows}
    for table, columns in TABLES.items():
        fields = ", ".join(f'"{name}" {meaning.partition(":")[0]}' for name, meaning in columns.items())
        connection.execute(f"create table {table} ({fields})")
        if re.search(rf"\b{table}\b", statement, re.IGNORECASE):
            places = ", ".join("?" * len(columns))
            for row in inventory.runs:
                try:
                    values = contents[table](row)
                    connection.executemany(f"insert into {table} values ({places})", values)  # noqa: S608 (own names)
                except DataError as error:
                    inventory.problems.append(str(error))
    connection.commit()


def _only_reads(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


def _run_row(row: RunRow) -> Iterator[tuple[Any, ...]]:
    own = {
        "seed": row.values.get("seed"),
        "mode": row.values["validate"]["mode"],
        "written": datetime.fromtimestamp(row.written).isoformat(" ", "seconds"),
    }
    yield tuple(own[name] if name in own else row.field(name) for name in TABLES["runs"])


def _config_rows(row: RunRow) -> Iterator[tuple[Any, ...]]:
    for key, value in flat(row.values).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        yield row.name, key, None if value is None else written(value), value if is_number else None


def _metric_rows(row: RunRow) -> Iterator[tuple[Any, ...]]:
    name = row.name
    for step, tokens, seconds, values in read_values(row.path / RECORD) if row.last is not None else ():
        for metric, value in values.items():
            yield name, step, tokens, seconds, metric, value


def _score_rows(row: RunRow) -> Iterator[tuple[Any, ...]]:
    """Yield the scores that a run ended with, and those of its other evaluations."""
    done = {} if row.conclusion is None else {row.conclusion.split: row.conclusion}
    names = sorted(path.stem for path in (row.path / EVALUATIONS).glob("*.json"))
    for evaluation in [*done, *(name for name in names if name not in done)]:
        scored = done.get(evaluation) or read_evaluation(row.path, evaluation)
        for name, value in scored.scores.items():
            low, high = scored.intervals.get(name, (None, None))
            signature = scored.signatures.get(name)
            yield row.name, evaluation, name, value, low, high, scored.examples, scored.checkpoint, signature


def _distinct(names: list[str]) -> list[str]:
    """Return names of columns, a number added to those that come again."""
    counts: dict[str, int] = {}
    found = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        found.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return found


def _advice(message: str) -> str:
    """Return what SQLite says, and what to do about it."""
    if message.startswith("no such table"):
        return f"{message}; the tables are {', '.join(TABLES)}"
    if message.startswith("no such column"):
        return f"{message}; etude query without a statement shows the columns, and a text stands in single quotes"
    if "not authorized" in message or "one statement" in message:
        return f"{message}; one select is what can be asked"
    return message
