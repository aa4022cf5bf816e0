"""`etude runs diff`: what differs between two runs, whatever their state: configuration, manifest, scores and cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.commands.browse.tabular import ShownColumn, formatted, tabular_format
from etude.commands.compare_tables import ABSENT
from etude.config.annotations import written
from etude.config.values import NONE, changes, flat
from etude.report.cost_rows import joules
from etude.report.writing import count, duration, score
from etude.runs.folder import DATA, MANIFEST
from etude.runs.manifest_drift import SECTIONS, section
from etude.runs.reading import read_data, read_manifest
from etude.runs.run_row import RunRow

_SHORT_HASH = 12
_COSTS: Mapping[str, Callable[[Any], str]] = {
    "step": count,
    "tokens": count,
    "seconds": duration,
    "energy_joules": joules,
    "parameters": count,
}


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        part: `configuration`, a section of the manifest, `state`, `scores` or `cost`.
        key: What it is.
        values: The values in the first run and in the second; of a key that one does not have `(none)`, of a score None.
    """

    part: str
    key: str
    values: tuple[Any, Any]


def runs_diff(
    first: Path,
    second: Path,
    outputs: Path,
    *,
    format: str = "table",  # noqa: A002 (the name that people type)
    width: int | None = None,
) -> str:
    """Return what differs between two runs, and their scores side by side.

    Args:
        first: Folder of a run.
        second: Folder of another.
        outputs: Folder of all runs, which names in the table are relative to.
        format: `table`, `markdown`, `csv` or `json`.
        width: Characters of a line of a table; None: as wide as it is.

    Raises:
        BrokenFileError: If a file of one of them is damaged.
        ConfigurationError: If there is no such format.
    """
    output_format = tabular_format(format, "etude runs diff")
    rows = [RunRow.read(path, path.parent.parent) for path in (first, second)]
    found = [*_configuration(*rows), *_manifest(*rows), *_state(*rows), *_results(*rows)]
    if output_format == "json":
        return _as_json((first, second), found)
    names = [_name(path, outputs) for path in (first, second)]
    titles = [name if names[0] != names[1] else f"{name} ({place})" for place, name in enumerate(names, start=1)]
    plain = output_format == "csv"
    records = [
        {
            "part": one.part,
            "key": one.key,
            **{title: value if plain else _shown(one, value) for title, value in zip(titles, one.values, strict=True)},
            "difference": _difference(one),
        }
        for one in found
    ]
    columns = [ShownColumn("part"), ShownColumn("key"), *(ShownColumn(title, right=True) for title in titles)]
    return formatted(records, [*columns, ShownColumn("difference", _signed, right=True)], output_format, width)


def _configuration(first: RunRow, second: RunRow) -> Iterator[Difference]:
    yield from _pairs("configuration", first.values, second.values)


def _manifest(first: RunRow, second: RunRow) -> Iterator[Difference]:
    """Yield what differs in code, packages, machine, settings and data, as far as both runs have come to write it."""
    if all((row.path / MANIFEST).exists() for row in (first, second)):
        manifests = [read_manifest(row.path).plain() for row in (first, second)]
        for name in SECTIONS:
            yield from _pairs(name, *(section(manifest, name) for manifest in manifests))
    else:
        without = [row.path for row in (first, second) if not (row.path / MANIFEST).exists()]
        yield Difference("manifest", "there is one", (first.path not in without, second.path not in without))
    if all((row.path / DATA).exists() for row in (first, second)):
        old, new = (read_data(row.path).plain() for row in (first, second))
        # The fingerprint is the manifest's too, and the batch the configuration's.
        yield from _pairs("data", *({**data, "fingerprint": None, "batch": None} for data in (old, new)))


def _pairs(part: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = flat(old), flat(new)
    for key in changes(old, new):
        yield Difference(part, key, (before.get(key, NONE), after.get(key, NONE)))


def _state(first: RunRow, second: RunRow) -> Iterator[Difference]:
    for key in ("state", "reason"):
        pair = (first.field(key), second.field(key))
        if pair[0] != pair[1]:
            yield Difference("state", key, pair)


def _results(first: RunRow, second: RunRow) -> Iterator[Difference]:
    """Yield all scores and costs, equal ones too: those of the best validation, the final ones, and what they cost."""
    for name in dict.fromkeys([*_scores(first), *_scores(second)]):
        yield Difference("scores", name, (_scores(first).get(name), _scores(second).get(name)))
    for key in _COSTS:
        yield Difference("cost", key, (first.field(key), second.field(key)))


def _scores(row: RunRow) -> dict[str, float]:
    validated = {} if row.best is None else dict(row.best.values)
    return validated | ({} if row.conclusion is None else row.conclusion.scores)


def _name(path: Path, outputs: Path) -> str:
    return path.relative_to(outputs).as_posix() if path.is_relative_to(outputs) else str(path)


def _shown(one: Difference, value: Any) -> str:
    if one.part in ("scores", "cost"):
        return ABSENT if value is None else (_COSTS.get(one.key) or score)(value)
    text = written(value)
    return f"{text[:_SHORT_HASH]}…" if len(text) > 2 * _SHORT_HASH and text.isalnum() else text


def _difference(one: Difference) -> float | None:
    """Return the second score or cost less the first."""
    old, new = one.values
    if one.part not in ("scores", "cost") or old is None or new is None:
        return None
    return float(new) - float(old)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"


def _as_json(runs: tuple[Path, Path], found: list[Difference]) -> str:
    parts: dict[str, Any] = {"runs": [str(run) for run in runs]}
    for one in found:
        parts.setdefault(one.part, {})[one.key] = list(one.values)
    return json.dumps(parts, indent=2, ensure_ascii=False) + "\n"
