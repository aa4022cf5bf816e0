"""`etude runs`: the runs and sweeps of a folder, those that meet conditions, sorted, with the columns that are asked for."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from etude.commands.browse.filters import Condition, holding
from etude.commands.browse.inventory import Inventory, SweepRow, read_inventory
from etude.commands.browse.tabular import ShownColumn, cell, formatted, tabular_format
from etude.commands.compare_tables import ABSENT
from etude.config.annotations import written
from etude.config.values import flat
from etude.errors import ConfigurationError
from etude.report.cost_rows import joules
from etude.report.writing import duration, score
from etude.runs.run_row import FIELDS, RunRow

STANDARD = ("run", "kind", "task", "state", "metric", "score", "seconds", "energy_joules", "age")
"""The columns that are always shown; `kind` where there are sweeps."""

ALIASES = {"cost": "seconds", "energy": "energy_joules", "name": "run"}
"""Other words for some keys."""

ROW_KEYS = ("kind", "age", *FIELDS, *ALIASES)
"""Keys that every row has, besides those of the configuration and metrics."""

_DAY = 86400.0
_Row = RunRow | SweepRow


@dataclass(frozen=True)
class Listing:
    """What `etude runs` writes.

    Attributes:
        text: The table.
        problems: A line for each folder that could not be read, or is no run.
    """

    text: str
    problems: list[str]


def list_runs(
    filters: Sequence[str],
    outputs: Path,
    *,
    sort: str = "age",
    columns: str = "",
    format: str = "table",  # noqa: A002 (the name that people type)
    width: int | None = None,
) -> Listing:
    """List the runs and sweeps of a folder.

    Args:
        filters: Conditions such as `task=translation` or `val/bleu>30`, all of which hold.
        outputs: Folder of all runs.
        sort: Keys, separated by commas, with a minus where the largest comes first; absent values come last.
        columns: Keys of more columns, separated by commas.
        format: `table`, `markdown`, `csv` or `json`.
        width: Characters of a line of a table; None: as wide as it is.

    Raises:
        ConfigurationError: If a filter, a format or a key is wrong.
    """
    output_format = tabular_format(format, "etude runs")
    conditions = [Condition.parse(word) for word in filters]
    ordered, more = words_of(sort), words_of(columns)
    inventory = read_inventory(outputs.resolve())
    rows: list[_Row] = [*inventory.runs, *inventory.sweeps]
    _refuse_unknown([*(one.key for one in conditions), *(key.lstrip("-") for key in ordered), *more], inventory)
    now = time.time()
    kept = [row for row in rows if holding(conditions, partial(_value, row, now))]
    for key in reversed(ordered):
        kept = _sorted(kept, key.lstrip("-"), key.startswith("-"), now)
    names = [name for name in STANDARD if name != "kind" or any(isinstance(row, SweepRow) for row in kept)]
    names += [key for key in more if key not in names]
    records = [{name: _value(row, now, name) for name in names} for row in kept]
    text = formatted(records, [_column(name) for name in names], output_format, width)
    return Listing(text, inventory.problems)


def words_of(text: str) -> list[str]:
    """Return the words of a list that is typed with commas, with or without brackets."""
    return [word.strip() for word in str(text).strip("[]").split(",") if word.strip()]


def _value(row: _Row, now: float, key: str) -> Any:
    key = ALIASES.get(key, key)
    if key == "age":
        return max(0.0, now - row.field("written"))
    if key == "kind" and isinstance(row, RunRow):
        return "member" if row.sweep else "run"
    return row.field(key)


def _sorted(rows: list[_Row], key: str, descending: bool, now: float) -> list[_Row]:
    """Return rows by a value, numbers before texts and absent values last; equal ones stay in their order."""
    keyed = [(_value(row, now, key), row) for row in rows]
    known = [(value, row) for value, row in keyed if value is not None and value == value]
    known.sort(key=lambda pair: _order(pair[0]), reverse=descending)
    return [*(row for _, row in known), *(row for value, row in keyed if value is None or value != value)]


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else str(value))


def _refuse_unknown(keys: Sequence[str], inventory: Inventory) -> None:
    """Refuse a key that no run has.

    Raises:
        ConfigurationError: With the nearest key that some run has.
    """
    unknown = [key for key in keys if key not in ROW_KEYS]
    unknown = [key for key in unknown if all(row.field(key) is None and not _has(row, key) for row in inventory.runs)]
    if unknown and inventory.runs:
        close = difflib.get_close_matches(unknown[0], keys_of(inventory), 1)
        advice = f"did you mean {close[0]}?" if close else "it is no metric and no key of a configuration"
        raise ConfigurationError(
            f"none of the {len(inventory.runs)} runs in {inventory.outputs} has {unknown[0]}; {advice} (command line)"
        )


def keys_of(inventory: Inventory) -> list[str]:
    """Return all keys that can be asked of some run: of rows, of metrics, and of configurations."""
    of_runs = {key for row in inventory.runs for key in (*flat(row.values), *_metrics(row))}
    return [*ROW_KEYS, *sorted(of_runs - {*ROW_KEYS})]


def values_of(inventory: Inventory, key: str) -> list[str]:
    """Return the values that runs and sweeps have of a key, as they are typed."""
    rows: list[_Row] = [*inventory.runs, *inventory.sweeps]
    found = [_value(row, 0.0, key) for row in rows]
    # Of the names of a class, the first is that of its file, which is mostly the choice's.
    values = [value[0] if isinstance(value, list) and value else value for value in found]
    return sorted({written(value) for value in values if value is not None})


def _has(row: RunRow, key: str) -> bool:
    """Return whether a configuration has a key, be it null."""
    return key in flat(row.values)


def _metrics(row: RunRow) -> list[str]:
    validated = [] if row.best is None else list(row.best.values)
    return [*validated, *([] if row.conclusion is None else row.conclusion.scores)]


def _column(name: str) -> ShownColumn:
    shown: dict[str, Callable[[Any], str]] = {
        "score": score,
        "seconds": duration,
        "energy_joules": joules,
        "age": age,
    }
    write: Callable[[Any], str] = shown.get(name, score if "/" in name else cell)
    right = name in shown or "/" in name or name not in ("run", "kind", "task", "state", "metric", "sweep", "reason")
    return ShownColumn(name, lambda value: ABSENT if value is None else write(value), right)


def age(seconds: float) -> str:
    """Return how long ago something was, in one unit."""
    for size, unit in ((_DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
