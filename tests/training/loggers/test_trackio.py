"""Trackio's database has a run once: values, configuration, state, tables, pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trackio.media.media
import trackio.sqlite_storage
import trackio.utils
from trackio.sqlite_storage import SQLiteStorage

from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Record
from etude.training.loggers.base import TrackedRun
from etude.training.loggers.safe_logger import SafeLogger
from etude.training.loggers.trackio import Trackio, TrackioMirror
from tests.training.loggers.tracked_runs import TABLE, entries, lose, tracked, train


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trackio's folder, which it reads from the environment when it is imported."""
    folder = tmp_path / "trackio"
    for module in (trackio.utils, trackio.sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    for module in (trackio.utils, trackio.media.media):
        monkeypatch.setattr(module, "MEDIA_DIR", folder / "media")
    return folder


def rows(run: TrackedRun) -> list[dict[str, Any]]:
    return list(SQLiteStorage.get_logs("studies", run_id=run.id))


def configuration(run: TrackedRun) -> dict[str, Any]:
    found = SQLiteStorage.get_run_config("studies", run_id=run.id)
    assert found is not None
    return dict(found)


def test_a_continued_run_is_one_run_with_every_value_once(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    Record(run.folder / RECORD).close()
    train(run.folder, lambda: TrackioMirror(run, "studies"), 0, 23)
    lose(run.folder, 4)
    train(run.folder, lambda: TrackioMirror(run, "studies"), 25, 31).close()
    names = ("train/loss", "val/loss")
    assert sorted((row["step"], name, row[name]) for row in rows(run) for name in names if name in row) == entries(31)
    assert len(rows(run)) == 31
    (record,) = SQLiteStorage.get_run_records("studies")
    assert (record["id"], record["name"]) == ("c0ffee11", "rates/007")


def test_a_run_is_described_and_says_what_became_of_it(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    logger = TrackioMirror(run, "studies")
    logger.log_metrics({"train/loss": 0.5, "tokens": 70, "seconds": 1.5}, 3)
    told = configuration(run)
    assert (told["model.width"], told["optimizer.betas"], told["data.fast"]) == (7, [0.9, 0.98], True)
    assert (told["_Group"], told["tags"], told["notes"]) == ("study/rates", "small, first", "a try | of *it*")
    assert told["state"] == "running"
    logger.mark_stopped(15)
    logger.finalize("failed")
    assert configuration(run)["state"] == "killed"
    logger = TrackioMirror(run, "studies")
    logger.log_metrics({"train/loss": 0.25, "seconds": 2.5}, 4)
    assert configuration(run)["state"] == "running"
    logger.close()
    assert configuration(run)["state"] == "finished"
    assert [(row["step"], row["timestamp"]) for row in rows(run)] == [
        (3, "2023-11-14T22:13:21.500000+00:00"),
        (4, "2023-11-14T22:13:22.500000+00:00"),
    ]


def test_tables_and_pages_are_shown(tmp_path: Path, shelf: Path) -> None:
    run = tracked(tmp_path)
    for _ in range(2):  # the second time in a process that repeats the validation
        logger = TrackioMirror(run, "studies")
        logger.log_table("samples", *TABLE, step=4)
        logger.log_page("attention", "<p>a page</p>", 4)
    table, page = sorted(rows(run), key=lambda row: "attention" in row)
    assert table["samples"]["_type"] == "trackio.table"
    assert table["samples"]["_value"] == [{"source": "a|b", "output": "<i>c</i>"}, {"source": "d", "output": 3}]
    assert (shelf / "media" / page["attention"]["file_path"]).read_text() == "<p>a page</p>"


def test_a_folder_that_cannot_be_written_turns_it_off_with_one_line(
    tmp_path: Path, shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.write_text("a file, where the folder should be")
    logger = SafeLogger(TrackioMirror(tracked(tmp_path), "studies"))
    for step in range(5):
        logger.log_metrics({"train/loss": 0.5}, step)
    logger.finalize("success")
    assert [one.getMessage().partition(":")[0] for one in caplog.records] == ["Trackio is off"]


def test_it_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigurationError, match=r"logger=trackio needs trackio: pip install 'etude\[trackio\]'"):
        Trackio().check()
