"""Tables of every kind: equal rows from each, wrong rows dropped and counted, unusable files refused in one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.readers.sources import Dropped, Row
from etude.data.readers.tables import csv_rows, read_rows
from etude.errors import DataError

COLUMNS = {"text": "sentence", "label": "class"}
ROWS = [("1", 'a "quoted" word', "yes"), ("2", "two\u2028parts, ä", "no"), ("3", "last", "yes")]
HEADER = ("id", "sentence", "class")


def read(path: Path, columns: dict[str, str] = COLUMNS) -> tuple[list[Row], Dropped]:
    dropped = Dropped()
    return list(read_rows(path, columns, dropped)), dropped


def as_tsv(path: Path) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in [HEADER, *ROWS]))


def as_csv(path: Path) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *ROWS])


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in ROWS))


def as_parquet(path: Path) -> None:
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


def as_folder(path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    datasets.Dataset.from_dict(columns).save_to_disk(str(path), num_shards=2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.tsv", as_tsv),
        ("t.csv", as_csv),
        ("t.jsonl", as_jsonl),
        ("t.parquet", as_parquet),
        ("saved", as_folder),
    ],
)
def test_every_kind_gives_the_same_rows(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    rows, dropped = read(tmp_path / name)
    assert [row.fields for row in rows] == [{"text": text, "label": label} for _, text, label in ROWS]
    assert not dropped
    if (tmp_path / name).suffix in (".tsv", ".csv", ".jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        assert [row.fields for row in read(tmp_path / f"{name}.gz")[0]] == [row.fields for row in rows]


def test_origins_are_lines(tmp_path: Path) -> None:
    as_tsv(tmp_path / "t.tsv")
    assert [row.origin for row in read(tmp_path / "t.tsv")[0]] == ["t.tsv:2", "t.tsv:3", "t.tsv:4"]
    (tmp_path / "t.csv").write_text('sentence,class\n"two\nlines",x\nnext,y\n')
    assert [row.origin for row in read(tmp_path / "t.csv")[0]] == ["t.csv:2", "t.csv:4"]


def test_positions_where_there_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("x\t0\t\tfirst\nx\t1\t*\tsecond\n")
    rows, _ = read(tmp_path / "t.tsv", {"text": "3", "label": "1"})
    assert [row.fields for row in rows] == [{"text": "first", "label": "0"}, {"text": "second", "label": "1"}]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1), min_size=1))
def test_csv_written_by_the_standard_library(texts: list[str]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([["text"], *([text] for text in texts)])
    lines = stream.getvalue().encode().split(b"\n")[:-1]
    rows = csv_rows(lines, "t.csv", {"text": "text"}, Dropped())
    assert [row.fields["text"] for row in rows] == [text.strip() for text in texts if text]


BAD_TSV = b"sentence\tclass\nfine\tx\nshort\n\n\xff\xfe\tx\n \tx\nnul\0\tx\nfine \xe2\x80\xa8too\tx\n"
BAD_JSON = b'{"sentence": "fine", "class": 1}\n[1]\n{\n{"sentence": null, "class": 1}\n{"sentence": [], "class": 1}\n'
BAD_CSV = b'sentence,class\n"fine" x,1\nfine,1\n'


@pytest.mark.parametrize(
    ("name", "content", "kept", "dropped", "first"),
    [
        (
            "t.tsv",
            BAD_TSV,
            ["fine", "fine \u2028too"],
            {"wrong number of columns": 1, "empty": 2, "not UTF-8 text": 2},
            "t.tsv:3",
        ),
        ("t.jsonl", BAD_JSON, ["fine"], {"not a JSON object": 2, "empty": 1, "not text": 1}, "t.jsonl:2"),
        ("t.csv", BAD_CSV, ["fine"], {"wrong quotes": 1}, "t.csv:2"),
    ],
)
def test_wrong_rows_are_dropped_and_counted(
    tmp_path: Path, name: str, content: bytes, kept: list[str], dropped: dict[str, int], first: str
) -> None:
    (tmp_path / name).write_bytes(content)
    rows, counted = read(tmp_path / name)
    assert [row.fields["text"] for row in rows] == kept
    assert counted == dropped
    assert next(iter(counted.first.values())) == first


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"id\tclass\n1\tx\n", r"t\.tsv has no column 'sentence'; its columns are: id, class"),
        ("t.jsonl", b'{"id": 1}\n', r"t\.jsonl has no column 'sentence'; its columns are: id"),
        ("t.tsv", b"sentence\tclass\n", "has no usable row$"),
        (
            "t.tsv",
            b"sentence\tclass\n\xff\tx\n",
            r"has no usable row; dropped: 1 not UTF-8 text \(the first at t\.tsv:2\)",
        ),
        ("t.csv", "sentence,class\nä,x\n".encode("utf-16"), r"t\.csv is not UTF-8 text"),
        ("t.csv", b'sentence,class\nfine,x\n"open,x\nmore,x\n', r"t\.csv:3 opens a quote that is not closed"),
        ("t.tsv", b"", "is empty"),
        ("t.parquet", b"PAR1", "is not a complete Parquet file"),
        ("t.xlsx", b"PK", r"is of no known kind: \.tsv, \.csv"),
        ("t.tsv", None, "no such file"),
        ("t.parquet", None, "no such file"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_very_long_field_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"sentence,class\n{'long ' * 100_000},x\n")
    assert len(read(tmp_path / "t.csv")[0][0].fields["text"]) == 499_999


def test_folder_of_several_splits(tmp_path: Path) -> None:
    (tmp_path / "all/train").mkdir(parents=True)
    (tmp_path / "all/dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"it has: dataset_dict\.json, train.* name one, as in all/train"):
        read(tmp_path / "all")


def test_truncated_arrow_folder(tmp_path: Path) -> None:
    as_folder(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="is not a complete Arrow file"):
        read(tmp_path / "saved")
