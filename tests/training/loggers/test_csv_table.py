"""The table of a run has a row for each event, also after it is continued."""

from __future__ import annotations

import csv
from pathlib import Path

from etude.runs.record import RECORD, Record
from etude.training.loggers.csv_table import CsvMirror
from tests.training.loggers.tracked_runs import entries, lose, train


def table(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("train/loss", "val/loss")
    return sorted((int(row["step"]), name, float(row[name])) for row in rows for name in names if row[name])


def test_a_continued_run_has_every_value_once(tmp_path: Path) -> None:
    Record(tmp_path / RECORD).close()
    train(tmp_path, lambda: CsvMirror(tmp_path), 0, 13)
    lose(tmp_path, 4)
    train(tmp_path, lambda: CsvMirror(tmp_path), 15, 23)
    assert table(tmp_path) == entries(23)


def test_rows_are_written_at_once_and_have_their_position(tmp_path: Path) -> None:
    mirror = CsvMirror(tmp_path)
    mirror.log_metrics({"train/loss": 0.5, "tokens": 7, "seconds": 1.5}, 3)
    mirror.log_metrics({"val/loss": 0.25, "tokens": 7, "seconds": 2.5}, 3)
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "3", "tokens": "7", "seconds": "1.5", "train/loss": "0.5", "val/loss": ""},
        {"step": "3", "tokens": "7", "seconds": "2.5", "train/loss": "", "val/loss": "0.25"},
    ]
