"""MLflow's database has a run once: values, parameters, tags, tables, pages, status."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Record
from etude.training.loggers.base import TrackedRun
from etude.training.loggers.mlflow import MLflow, MLflowMirror
from etude.training.loggers.safe_logger import SafeLogger
from tests.training.loggers.tracked_runs import STARTED, TABLE, entries, lose, tracked, train


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def place(tmp_path: Path, database: Path) -> Path:
    """A folder for a run, beside which the database is."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(database, tmp_path / "outputs" / "mlflow.db")
    return tmp_path


def mirror(run: TrackedRun) -> MLflowMirror:
    return MLflowMirror(run, run.experiment, None)


def found(run: TrackedRun) -> tuple[Any, Any]:
    """Return the client of the run's database, and the only run there."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.outputs}/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    (one,) = client.search_runs([experiment.experiment_id])
    return client, one


def test_a_continued_run_is_one_run_with_every_value_once(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    Record(run.folder / RECORD).close()
    train(run.folder, lambda: mirror(run), 0, 23)
    lose(run.folder, 4)
    train(run.folder, lambda: mirror(run), 25, 31).close()
    client, one = found(run)
    values = [
        (value.step, name, value.value)
        for name in ("train/loss", "val/loss")
        for value in client.get_metric_history(one.info.run_id, name)
    ]
    assert sorted(values) == entries(31)
    tokens = [value.step for value in client.get_metric_history(one.info.run_id, "tokens")]
    assert sorted(tokens) == sorted({step for step, _, _ in entries(31)})


def test_a_run_is_described(place: Path) -> None:
    run = tracked(place)
    logger = mirror(run)
    logger.log_metrics({"train/loss": 0.5, "val/f1 (a&b)": 0.25, "seconds": 1.5}, 3)
    client, one = found(run)
    assert (one.info.run_name, one.info.status, one.info.run_id) == ("rates/007", "RUNNING", logger.version)
    tags = {name: one.data.tags[name] for name in ("tags", "group", "mlflow.note.content", "etude.id")}
    assert tags == {
        "tags": "small, first",
        "group": "study/rates",
        "mlflow.note.content": "a try | of *it*",
        "etude.id": "c0ffee11",
    }
    assert one.data.params == {
        "model.width": "7",
        "optimizer.lr": "0.001",
        "optimizer.betas": "[0.9, 0.98]",
        "data.fast": "true",
    }
    assert one.data.metrics == {"train/loss": 0.5, "val/f1 _a_b_": 0.25, "seconds": 1.5}
    (value,) = client.get_metric_history(one.info.run_id, "train/loss")
    assert (value.step, value.timestamp) == (3, int((STARTED + 1.5) * 1000))


def test_a_continued_run_has_the_parameters_that_are_new_and_runs_again(place: Path) -> None:
    first = tracked(place)
    logger = mirror(first)
    logger.log_metrics({"train/loss": 0.5}, 3)
    logger.finalize("failed")
    assert found(first)[1].info.status == "FAILED"
    changed = tracked(place, parameters={**first.parameters, "model.width": 8, "trainer.workers": 2})
    logger = mirror(changed)
    logger.save()
    _, one = found(first)
    assert one.info.status == "RUNNING"
    assert (one.data.params["model.width"], one.data.params["trainer.workers"]) == ("7", "2")
    logger.close()
    assert found(first)[1].info.status == "FINISHED"


def test_tables_and_pages_are_artifacts(place: Path) -> None:
    run = tracked(place)
    logger = mirror(run)
    for _ in range(2):
        logger.log_table("samples", *TABLE, step=4)
    logger.log_page("attention", "<p>a page</p>", 4)
    _, one = found(run)
    (table,) = run.outputs.rglob("samples/step-00000004.json")
    assert '"a|b"' in table.read_text()
    assert one.data.tags["mlflow.loggedArtifacts"] == '[{"path": "samples/step-00000004.json", "type": "table"}]'
    (page,) = run.outputs.rglob("attention.html")
    assert page.read_text() == "<p>a page</p>"


@contextmanager
def broken_server() -> Iterator[str]:
    """A server that answers each request with an error."""

    class Refusing(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.wfile.write(b"HTTP/1.0 500 broken\r\n\r\n")
            self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


@pytest.mark.parametrize("kind", ["gone", pytest.param("broken", marks=pytest.mark.slow)])
def test_a_server_that_is_gone_or_broken_stops_and_says_nothing_but_one_line(
    kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A library of another test in this process may have left a handler whose stream is closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    run = tracked(tmp_path)
    with broken_server() as broken:
        uri = broken if kind == "broken" else "http://127.0.0.1:9"
        logger = SafeLogger(MLflowMirror(run, "study", uri), patience=40)
        for step in range(5):
            logger.log_metrics({"train/loss": 0.5}, step)
        logger.finalize("success")
    (line,) = [one for one in caplog.records if one.levelno >= logging.WARNING]  # none of the libraries says anything
    assert line.getMessage().startswith("MLflow is off: ")
    assert capfd.readouterr() == ("", "")


def test_it_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r"logger=mlflow needs mlflow: pip install 'etude\[mlflow\]'"):
        MLflow().check()
