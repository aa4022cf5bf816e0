"""Rows of tables, streamed: TSV, CSV, JSON lines, Parquet, and Arrow folders saved by `datasets`.

Rows that are not UTF-8, empty, or of the wrong shape are dropped and counted; a file without a usable row is refused.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from etude.data.readers.sources import Dropped, Row, is_text, read_lines, refusing
from etude.errors import DataError
from etude.untrusted import BrokenFileError, read_json

LONGEST_FIELD = 1 << 24
"""Characters; a longer field of a CSV file is assumed to be a quote that is not closed."""

Records = Iterator[tuple[int, list[str]]]
Lists = Mapping[str, str]
"""Field -> separator of its values in a cell of text."""


class _Entry(msgspec.Struct, frozen=True):
    """One Arrow file of a folder that `datasets` saved."""

    filename: str


class _DatasetState(msgspec.Struct, frozen=True):
    """The files of such a folder; what else its `state.json` says is not read."""

    data_files: list[_Entry] = msgspec.field(name="_data_files")


Reader = Callable[[Path, Mapping[str, str], Dropped, Lists], Iterator[Row]]


def read_rows(path: Path, columns: Mapping[str, str], dropped: Dropped, lists: Lists | None = None) -> Iterator[Row]:
    """Yield the rows of a TSV, CSV, JSON-lines or Parquet file, or of a folder saved by `datasets`.

    The first line of TSV and CSV names the columns, unless all requested columns are numbers: then there is no such line,
    and the numbers are positions from 0. TSV has no quoting: a quote is a character like any other.

    Args:
        path: File ending in .tsv, .csv, .jsonl, .json (each also .gz) or .parquet; or a folder of `save_to_disk`.
        columns: Field name -> column name.
        dropped: Counter of the dropped rows.
        lists: Fields of several values: a list, or text with separators. The field is then a JSON list, which may be
            empty.

    Raises:
        DataError: If the file cannot be read, lacks a column, or has no usable row.
    """
    usable, before = 0, dropped.total()
    for row in _reader(path)(path, columns, dropped, lists or {}):
        reason = _refusal(row)
        if reason is None:
            usable += 1
            yield row
        else:
            dropped.drop(reason, row.origin)
    if usable == 0:
        why = f"; dropped: {dropped}" if dropped.total() > before else ""
        raise DataError(f"{path} has no usable row{why}")


def csv_rows(lines: Iterable[bytes], name: str, columns: Mapping[str, str], dropped: Dropped) -> Iterator[Row]:
    """Yield the rows of CSV lines from any source; quoted fields may contain line breaks.

    Args:
        lines: Lines without line breaks.
        name: Name of the source, for origins.
        columns: Field name -> column name, or position if all are numbers.
        dropped: Counter of the dropped rows.

    Raises:
        DataError: If a quote is never closed, or a column is missing.
    """
    return _select(_csv_records(lines, name, dropped), name, columns, dropped, {})


def _refusal(row: Row) -> str | None:
    if not all(map(is_text, row.fields.values())):
        return "not UTF-8 text"
    return None if all(row.fields.values()) else "empty"


def _reader(path: Path) -> Reader:
    """Return the reader for a path, by its suffix or because it is a folder."""
    if path.is_dir():
        return _folder_rows
    readers: dict[str, Reader] = {".tsv": _tsv_rows, ".csv": _csv_file_rows, ".jsonl": _json_rows, ".json": _json_rows}
    reader = readers.get(Path(path.name.removesuffix(".gz")).suffix)
    if path.suffix == ".parquet":
        reader = _parquet_rows
    if reader is None:
        raise DataError(f"{path} is of no known kind: .tsv, .csv, .jsonl, .json (each also .gz), .parquet, or a folder")
    return reader


def _tsv_rows(path: Path, columns: Mapping[str, str], dropped: Dropped, lists: Lists) -> Iterator[Row]:
    lines = (line.decode("utf-8", "surrogateescape") for line in read_lines(path))
    records = ((number, line.split("\t")) for number, line in enumerate(lines, 1))
    return _select(records, path.name, columns, dropped, lists)


def _csv_file_rows(path: Path, columns: Mapping[str, str], dropped: Dropped, lists: Lists) -> Iterator[Row]:
    records = _csv_records(read_lines(path), path.name, dropped)
    return _select(records, path.name, columns, dropped, lists)


def _csv_records(lines: Iterable[bytes], name: str, dropped: Dropped) -> Records:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader((line.decode("utf-8", "surrogateescape") + "\n" for line in lines), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error) or "limit" in str(error):
                raise DataError(
                    f"{name}:{start} opens a quote that is not closed; double a quote inside quotes"
                ) from error
            dropped.drop("wrong quotes", f"{name}:{start}")
        else:
            yield start, cells


def _select(records: Records, name: str, columns: Mapping[str, str], dropped: Dropped, lists: Lists) -> Iterator[Row]:
    """Yield the requested columns of records, the first of which names them unless they are requested by position."""
    numbered = all(column.isdecimal() for column in columns.values())
    header: list[str] = []
    positions: dict[str, int] = {}
    for number, cells in records:
        first = not header
        if first:
            header = [str(position) for position in range(len(cells))] if numbered else [cell.strip() for cell in cells]
            if not all(map(is_text, header)):
                raise DataError(f"{name} is not UTF-8 text: its line of column names cannot be read")
            _require(columns, header, name)
            positions = {field: header.index(column) for field, column in columns.items()}
        if first and not numbered:
            continue
        origin = f"{name}:{number}"
        if not any(cells):
            dropped.drop("empty", origin)
        elif len(cells) != len(header):
            dropped.drop("wrong number of columns", origin)
        else:
            fields = {field: cells[position].strip() for field, position in positions.items()}
            yield Row({**fields, **{field: _json_list(fields[field], mark) for field, mark in lists.items()}}, origin)


def _require(columns: Mapping[str, str], names: Iterable[str], name: str) -> None:
    present = list(names)
    missing = [column for column in columns.values() if column not in present]
    if missing:
        raise DataError(f"{name} has no column {missing[0]!r}; its columns are: {', '.join(present)}")


def _json_rows(path: Path, columns: Mapping[str, str], dropped: Dropped, lists: Lists) -> Iterator[Row]:
    first = True
    for number, line in enumerate(read_lines(path), 1):
        origin = f"{path.name}:{number}"
        try:
            values = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            dropped.drop("not a JSON object", origin)
            continue
        if first:
            _require(columns, values, path.name)
            first = False
        yield from _from_values(values, origin, columns, dropped, lists)


def _from_values(
    values: Mapping[str, Any], origin: str, columns: Mapping[str, str], dropped: Dropped, lists: Lists
) -> Iterator[Row]:
    """Yield a row of typed values as text: numbers are written out, values of other types are refused."""
    fields = {field: values.get(column) for field, column in columns.items()}
    fields |= {field: _json_list(fields[field], mark) for field, mark in lists.items()}
    if all(isinstance(value, str | int | float) for value in fields.values()):
        yield Row({field: str(value).strip() for field, value in fields.items()}, origin)
    else:
        dropped.drop("empty" if None in fields.values() else "not text", origin)


def _json_list(value: Any, mark: str) -> Any:
    """Return a list, or text with separators, as a JSON list; any other value unchanged."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(mark) if part.strip()]
    if not isinstance(value, list) or not all(isinstance(part, str | int | float) for part in value):
        return value
    return json.dumps([str(part).strip() for part in value], ensure_ascii=False)


def _parquet_rows(path: Path, columns: Mapping[str, str], dropped: Dropped, lists: Lists) -> Iterator[Row]:
    # Imported here and in the next function: pyarrow is slow to import, and few corpora need it.
    import pyarrow.parquet

    with refusing(path), path.open("rb"):
        pass
    try:
        table = pyarrow.parquet.ParquetFile(path)
        _require(columns, table.schema_arrow.names, path.name)
        batches = table.iter_batches(columns=sorted(set(columns.values())))
        yield from _arrow_rows(batches, path.name, columns, dropped, lists)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a complete Parquet file: {str(error).splitlines()[0]}") from error


def _folder_rows(path: Path, columns: Mapping[str, str], dropped: Dropped, lists: Lists) -> Iterator[Row]:
    import pyarrow

    try:
        files = [Path(entry.filename).name for entry in read_json(path / "state.json", _DatasetState, "").data_files]
    except BrokenFileError as error:
        inside = sorted(entry.name for entry in path.iterdir())[:8]
        raise DataError(
            f"{path} is not a folder written by datasets' save_to_disk: no readable state.json (it has: "
            f"{', '.join(inside) or 'nothing'}); of a folder with several splits name one, as in {path.name}/train"
        ) from error
    for file in files:
        try:
            with pyarrow.memory_map(str(path / file)) as source, pyarrow.ipc.open_stream(source) as batches:
                _require(columns, batches.schema.names, f"{path.name}/{file}")
                yield from _arrow_rows(batches, f"{path.name}/{file}", columns, dropped, lists)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path / file} is not a complete Arrow file: {str(error).splitlines()[0]}") from error


def _arrow_rows(
    batches: Iterable[Any], name: str, columns: Mapping[str, str], dropped: Dropped, lists: Lists
) -> Iterator[Row]:
    number = 0
    for batch in batches:
        names = sorted(set(columns.values()))
        for values in zip(*(batch.column(column).to_pylist() for column in names), strict=True):
            number += 1
            named = dict(zip(names, values, strict=True))
            yield from _from_values(named, f"{name}:{number}", columns, dropped, lists)
