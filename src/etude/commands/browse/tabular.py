"""Records as a table for the terminal, in Markdown, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.commands.compare_tables import ABSENT, ComparisonTable, render
from etude.config.annotations import written
from etude.errors import ConfigurationError
from etude.report.writing import number

TABULAR = ("table", "markdown", "csv", "json")
"""The formats; the first is the default."""

_WIDEST = 100_000


def cell(value: Any) -> str:
    """Return a value as text for a person: a number with four digits, nothing for None."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return number(value)
    return written(value)


@dataclass(frozen=True)
class ShownColumn:
    """A column.

    Attributes:
        name: Its title, and the key of its values.
        shown: Returns a value as text for a person.
        right: Whether its texts stand at the right, as numbers do.
    """

    name: str
    shown: Callable[[Any], str] = cell
    right: bool = False


def tabular_format(name: Any, command: str) -> str:
    """Return the name of a format.

    Raises:
        ConfigurationError: If there is none of this name.
    """
    if str(name) not in TABULAR:
        raise ConfigurationError(f"{command} does not know format={name}; it takes {'|'.join(TABULAR)} (command line)")
    return str(name)


def formatted(
    records: Sequence[Mapping[str, Any]], columns: Sequence[ShownColumn], output_format: str, width: int | None
) -> str:
    """Return records as text.

    Args:
        records: Values by the names of columns; CSV and JSON have them as they are.
        columns: The columns, in their order.
        output_format: One of `TABULAR`.
        width: Characters of a line of a table, whose long cells are then folded; None: as wide as the table is.
    """
    names = [column.name for column in columns]
    if output_format == "json":
        plain = [{name: _plain(record.get(name)) for name in names} for record in records]
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    if output_format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_plain(record.get(name)) for name in names] for record in records)
        return text.getvalue()
    rows = [[column.shown(record.get(column.name)) for column in columns] for record in records]
    if output_format == "markdown":
        return render([ComparisonTable(f"{len(rows)} rows", names, rows)], [], "markdown")
    return _table(columns, rows, width)


def _table(columns: Sequence[ShownColumn], rows: Sequence[Sequence[str]], width: int | None) -> str:
    if width is None:  # rich would take ten times as long for what needs no folding
        texts = [[column.name for column in columns], *rows]
        widths = [max(map(len, texts_of)) for texts_of in zip(*texts, strict=True)]
        lines = ("  ".join(map(_aligned, line, widths, columns)).rstrip() for line in texts)
        return "\n".join(lines) + "\n"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        # `Text`, since rich would take a bracket in a name for a style.
        table.add_column(Text(column.name), justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=min(width, _WIDEST), highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _aligned(text: str, width: int, column: ShownColumn) -> str:
    text = text.replace("\n", " ")
    return text.rjust(width) if column.right else text.ljust(width)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: a number that is not finite as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
