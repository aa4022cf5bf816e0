"""Loggers: the record, the guard around a tracker, and Weights & Biases without a server, killed or hanging."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
import wandb
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, Logger

from etude.config.schema import Validation
from etude.duration import Duration
from etude.errors import ConfigurationError, StorageError
from etude.runs.record import RECORD, Event, Record, read
from etude.training.loggers import safe_logger
from etude.training.loggers.safe_logger import SafeLogger
from etude.training.loggers.tracking import STEP, RecordLogger, WeightsAndBiases, wandb_logger

RUN_ID = "study-7"


class RecordingLogger(Logger):
    """Records its calls; calls `act` first."""

    name = "recording"
    version = 3

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self._act = act

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._act()
        self.calls.append(("metrics", metrics, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("hyperparameters", params))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        self.calls.append(("table", key, columns, data, step))


# The record


def test_metrics_are_recorded_at_the_position_of_the_run(tmp_path: Path) -> None:
    logger = RecordLogger(Record(tmp_path / RECORD), where=lambda: (11, 1300, 1.5))
    logger.log_metrics({"train/loss": 0.1}, step=23)
    logger.log_hyperparams({"lr": 1.0})
    assert read(tmp_path / RECORD) == [Event(11, 1300, 1.5, {"train/loss": 0.1})]
    assert logger.save_dir == str(tmp_path)


def test_a_record_that_cannot_be_written_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = RecordLogger(Record(tmp_path / RECORD), where=lambda: (1, 2, 3.0))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left on device"):
        logger.log_metrics({"train/loss": 0.1})


# The guard


def test_the_guard_forwards_every_call_in_order() -> None:
    inner = RecordingLogger()
    logger = SafeLogger(inner, where=lambda: (5, 70, 1.1))
    metrics = {"loss": 2.0}
    logger.log_hyperparams({"lr": 3})
    logger.log_metrics(metrics, step=1)
    logger.log_table("samples", ["source"], [("a",)])
    logger.finalize("success")
    assert inner.calls == [
        ("hyperparameters", {"lr": 3}),
        ("metrics", {"loss": 2.0, "tokens": 70, "seconds": 1.1}, 5),
        ("table", "samples", ["source"], [["a"]], 5),
    ]
    assert metrics == {"loss": 2.0}
    assert (logger.name, logger.version, logger.save_dir) == ("recording", 3, None)


def test_the_guard_passes_a_signal_on_to_a_logger_that_asks() -> None:
    inner = RecordingLogger()
    SafeLogger(inner).mark_stopped(signal.SIGUSR1)  # asks nothing
    inner.mark_stopped = lambda number: inner.calls.append(("stopped", number))  # type: ignore[attr-defined]
    logger = SafeLogger(inner)
    logger.mark_stopped(signal.SIGUSR1)
    logger.finalize("success")
    assert inner.calls == [("stopped", signal.SIGUSR1)]


def test_a_failing_logger_is_reported_once_and_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("no such\n  server")

    inner = RecordingLogger(fail)
    logger = SafeLogger(inner)
    for step in range(7):
        logger.log_metrics({"loss": 1.0}, step)
    logger.finalize("success")
    logger.log_table("samples", ["source"], [["a"]])
    logger.finalize("success")
    assert inner.calls == []
    assert caplog.messages == [
        "RecordingLogger is off: no such server; training goes on, and metrics.jsonl has every value",
    ]


def test_a_logger_that_hangs_costs_no_time(caplog: pytest.LogCaptureFixture) -> None:
    forever = threading.Event()
    logger = SafeLogger(RecordingLogger(lambda: forever.wait()), backlog=5, patience=0.2)
    started = time.monotonic()
    for step in range(101):
        logger.log_metrics({"loss": 1.0}, step)
    assert time.monotonic() - started < 0.5
    logger.finalize("success")
    assert time.monotonic() - started < 1.5
    assert caplog.messages == [
        "RecordingLogger is off: 5 calls behind; training goes on, and metrics.jsonl has every value",
    ]


def test_the_wait_for_the_end_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    forever = threading.Event()
    logger = SafeLogger(RecordingLogger(lambda: forever.wait()), patience=0.2)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")
    assert "no answer in 0.2 s" in caplog.text


def test_a_logger_without_tables_gets_none(tmp_path: Path) -> None:
    logger = SafeLogger(CSVLogger(tmp_path, name="csv"))
    logger.log_table("samples", ["source"], [["a"]])
    logger.log_metrics({"loss": 1.0}, 3)
    logger.finalize("success")
    assert "loss" in next(tmp_path.glob("csv/*/metrics.csv")).read_text()


class Study(BoringModel):
    """Logs as a task does: training metrics to the loggers, validation metrics through Lightning."""

    def on_train_batch_end(self, *_: Any) -> None:
        assert self.trainer is not None
        for logger in self.trainer.loggers:
            logger.log_metrics({"train/loss": 1 / self.global_step}, self.global_step)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val/loss", 0.25)


def test_lightning_logs_to_the_record_and_to_others(tmp_path: Path) -> None:
    study = Study()
    loggers = [
        RecordLogger(Record(tmp_path / RECORD), lambda: (study.global_step, 0, 0.0)),
        SafeLogger(CSVLogger(tmp_path, name="csv", flush_logs_every_n_steps=1), lambda: (study.global_step, 0, 0.0)),
    ]
    trainer = lightning.Trainer(
        default_root_dir=tmp_path,
        logger=loggers,
        accelerator="cpu",
        max_steps=3,
        limit_val_batches=1,
        val_check_interval=3,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(study)
    events = read(tmp_path / RECORD)
    assert [(event.step, dict(event.values)) for event in events] == [
        (1, {"train/loss": 1.0}),
        (2, {"train/loss": 0.5}),
        (3, {"train/loss": 1 / 3}),
        (3, {"val/loss": 0.25, "epoch": 0}),
    ]
    assert len(next(tmp_path.glob("csv/*/metrics.csv")).read_text().splitlines()) == 5
    assert trainer.log_dir == str(tmp_path)


# Weights & Biases, without a server


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-settings"))


@pytest.mark.parametrize(
    ("number", "status", "preempting", "code"),
    [
        (signal.SIGUSR1, "failed", True, 1),
        (signal.SIGTERM, "failed", False, 1),  # how an agent ends a run that W&B gives up
        (None, "failed", False, 1),
        (None, "success", False, 0),
    ],
)
def test_a_stopped_run_of_a_sweep_is_preempted_and_not_finished(
    number: int | None, status: str, preempting: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("wandb_version: 1\n\nmodel.width:\n  value: 7\n")
    for variable, value in (("SWEEP_ID", "k3v9x1c2"), ("RUN_ID", RUN_ID), ("SWEEP_PARAM_PATH", str(file))):
        monkeypatch.setenv(f"WANDB_{variable}", value)
    wandb.teardown()  # W&B reads the environment once in a process
    # A run that is stopped has long been connected. This one has only begun, which takes more than the patience of a failure
    # where the machine is busy.
    monkeypatch.setattr(safe_logger, "FAILURE_PATIENCE", 60.0)
    logger = SafeLogger(dashboard(tmp_path))
    logger.log_metrics({"train/loss": 2.5}, 1)
    if number is not None:
        logger.mark_stopped(number)
    logger.finalize(status)
    if status == "success":
        logger.close()
    wandb.teardown()
    records = {record["type"]: record for record in inspected(tmp_path)}
    assert ("preempting" in records) == preempting
    assert records["exit"]["exit"]["exit_code"] == code


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.name.startswith("etude.")]


def dashboard(folder: Path, **arguments: Any) -> WeightsAndBiases:
    return wandb_logger(folder, RUN_ID, "study", ["small"], "a note", {"model": {"width": 7}}, **arguments)


def inspected(folder: Path) -> list[dict[str, Any]]:
    """Return the records of all local files of the run in chronological order."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    answers = [subprocess.run([*command, str(file)], capture_output=True, text=True, check=True) for file in files]
    return [json.loads(line) for answer in answers for line in answer.stdout.splitlines()]


def history(folder: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in inspected(folder) if record["type"] == "history"]


def test_without_a_key_it_is_offline_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = SafeLogger(dashboard(tmp_path), where=lambda: (13, 170, 1.9))
    logger.save()
    logger.log_metrics({"train/loss": 2.5, "train/norm": float("nan")})
    logger.log_table("samples", ["source", "output"], [["a", "b"]])
    logger.log_page("attention", "<p>a page</p>")
    logger.close()
    assert messages(caplog) == [
        "W&B is offline: no key on this machine (WANDB_API_KEY, or `wandb login`); "
        f"upload later by `wandb sync {tmp_path}/wandb/offline-run-*`"
    ]
    assert capfd.readouterr().out == ""
    metrics, table, page = history(tmp_path)
    assert metrics[STEP] == table[STEP] == 13
    assert (metrics["train/loss"], metrics["train/norm"], metrics["tokens"], metrics["seconds"]) == (
        2.5,
        "NaN",
        170,
        1.9,
    )
    assert (table["samples._type"], table["samples.ncols"]) == ("table-file", 2)
    assert page["attention._type"] == "html-file"
    (written,) = tmp_path.glob("wandb/offline-run-*/files/media/html/attention_*.html")
    assert written.read_text() == "<p>a page</p>"
    run = next(record["run"] for record in inspected(tmp_path) if record["type"] == "run")
    assert (run["run_id"], run["project"], run["display_name"]) == (RUN_ID, "etude", "study")
    assert "width" in json.dumps(run["config"])


def test_the_summary_has_the_best_of_what_the_run_is_judged_by(tmp_path: Path) -> None:
    judged = Validation(Duration.parse("1epoch"), "val/bleu", "max")
    logger = dashboard(tmp_path, judged=judged, group="translation/demo", job_type="Translation")
    for step, bleu in enumerate((20.0, 30.0, 25.0), start=1):
        logger.log_metrics({"val/bleu": bleu, "val/loss": 1.0 / step}, step)
    logger.close()
    records = inspected(tmp_path)
    run = next(record["run"] for record in records if record["type"] == "run")
    assert (run["run_group"], run["job_type"]) == ("translation/demo", "Translation")
    defined = [record["metric"] for record in records if record["type"] == "metric"]
    (bleu,) = [metric for metric in defined if metric.get("name") == "val/bleu"]
    assert bleu["summary"] == {"max": True} and bleu["step_metric"] == STEP
    assert any(metric.get("glob_name") == "*" and metric["step_metric"] == STEP for metric in defined)


def train(folder: Path, first: int, last: int) -> SafeLogger:
    """Log as a run does that continues after `first` steps and stops after `last`."""
    position = (first, 0, 0.0)
    record = Record(folder / RECORD)
    lines = (folder / RECORD).read_bytes().splitlines(keepends=True)
    record.cut(sum(map(len, lines[:first])))
    mirror = SafeLogger(dashboard(folder, mode="offline"), where=lambda: position)
    loggers = [RecordLogger(record, where=lambda: position), mirror]
    for step in range(first, last):
        position = (step, 7 * step, 0.5 * step)
        for logger in loggers:
            logger.log_metrics({"train/loss": 1 / (step + 1)}, step)
    mirror.finalize("success")
    return mirror


def train_and_be_killed(folder: Path, last: int) -> int:
    """Run `train` in a separate process, and kill it and its children."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_tracking import train
train(Path({str(folder)!r}), 0, {last})
os.killpg(0, signal.SIGKILL)
"""
    # Without WANDB_SERVICE: the child would share this process's W&B service, which would survive the kill.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, start_new_session=True, capture_output=True, env=environment).returncode


@pytest.mark.slow
def test_a_killed_and_continued_run_has_every_step_once(tmp_path: Path) -> None:
    assert train_and_be_killed(tmp_path, 307) == -signal.SIGKILL
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    os.truncate(file, file.stat().st_size * 2 // 3)  # a kill loses some of its end; this loses more
    assert len(history(tmp_path)) < 290
    train(tmp_path, 290, 331).close()
    rows = history(tmp_path)
    assert sorted(row[STEP] for row in rows) == list(range(331))
    assert [row["_step"] for row in rows] == list(range(331))
    assert all(row["train/loss"] == 1 / (row[STEP] + 1) and row["tokens"] == 7 * row[STEP] for row in rows)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_does_not_answer_means_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, silent_server: str
) -> None:
    monkeypatch.setattr("etude.training.loggers.tracking.INIT_TIMEOUT", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    wandb.teardown()  # W&B reads the environment once in a process
    logger = SafeLogger(dashboard(tmp_path, mode="online"))
    started = time.monotonic()
    logger.save()
    logger.log_metrics({"train/loss": 2.5}, 3)
    assert time.monotonic() - started < 0.5
    logger.close()
    (line,) = messages(caplog)
    assert line.startswith("W&B is offline: Failed to get resume status")
    assert [row["train/loss"] for row in history(tmp_path)] == [2.5]


def test_a_server_that_is_not_there_means_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("etude.training.loggers.tracking.INIT_TIMEOUT", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    logger = SafeLogger(dashboard(tmp_path, mode="online"))
    logger.log_metrics({"train/loss": 2.5}, 3)
    logger.close()
    (line,) = messages(caplog)
    assert line.startswith("W&B is offline: ")
    assert [row["train/loss"] for row in history(tmp_path)] == [2.5]


# The service process of Weights & Biases, killed or stopped


def service() -> int:
    """Return the id of W&B's service process."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"wandb-core" in (place / "cmdline").read_bytes():
                return int(place.name)
    raise AssertionError("W&B has no service process")


def log_in_trouble(folder: Path, number: int | None, status: str) -> None:
    """Log, send a signal to W&B's service, log more, and end; print the times of logging and ending, and the time of day."""
    logger = SafeLogger(dashboard(folder), where=lambda: (1, 0, 0.0), patience=4)
    logger.save()
    if number is not None:
        logger.log_metrics({"train/loss": 0.5})
        logger.finalize("success")
        print(service())
        os.kill(service(), number)
    started = time.monotonic()
    for step in range(100):
        logger.log_metrics({"train/loss": 1.0}, step)
    logged = time.monotonic()
    logger.finalize(status)
    if status == "success":
        logger.close()
    print(logged - started, time.monotonic() - logged, time.time())


class Exit(NamedTuple):
    """Exit code and standard error of a process."""

    code: int
    log: str


def in_trouble(folder: Path, number: int | None, status: str, **variables: str) -> tuple[Exit, list[float]]:
    """Call `log_in_trouble` in a separate process.

    Returns:
        Its exit, and the seconds for logging, for ending, and from there to the end of the process.
    """
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_tracking import log_in_trouble
log_in_trouble(Path({str(folder)!r}), {number}, {status!r})
"""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} | variables
    # Files, since W&B's service may outlive the process and keep a pipe open.
    with (folder / "out").open("w+") as out, (folder / "log").open("w+") as log:
        code = subprocess.call([sys.executable, "-c", script], stdout=out, stderr=log, env=environment, timeout=120)
        ended = time.time()
        out.seek(0), log.seek(0)
        lines, exited = out.read().splitlines(), Exit(code, log.read())
    assert lines, exited
    *started, times = lines
    for process in started:
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    assert len(times.split()) == 3, exited
    logging, ending, over = (float(word) for word in times.split())
    return exited, [logging, ending, ended - over]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGKILL, "success"),
        pytest.param(signal.SIGSTOP, "success", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, "failed", marks=pytest.mark.slow),
    ],
)
def test_a_service_that_is_gone_or_hangs_delays_nothing(tmp_path: Path, number: int, status: str) -> None:
    exited, (logging, ending, leaving) = in_trouble(tmp_path, number, status)
    assert exited.code == 0, exited.log
    assert "Traceback" not in exited.log
    assert exited.log.count("WeightsAndBiases is off: ") == (1 if status == "success" else 0)
    assert logging < 0.5
    assert ending < (6 if status == "success" else 5)
    assert leaving < 5


@pytest.mark.slow
def test_a_server_that_does_not_answer_does_not_delay_a_signal(tmp_path: Path, silent_server: str) -> None:
    exited, (logging, ending, leaving) = in_trouble(
        tmp_path, None, "failed", WANDB_API_KEY="a" * 40, WANDB_BASE_URL=silent_server
    )
    assert exited.code == 0, exited.log
    assert "Traceback" not in exited.log
    assert (logging < 0.5, ending < 5, leaving < 5) == (True, True, True), (logging, ending, leaving)


def test_disabled_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Record(tmp_path / RECORD).append(Event(1, 2, 3.0, {"train/loss": 1.0}))
    logger = SafeLogger(dashboard(tmp_path))
    logger.log_metrics({"train/loss": 2.5}, 3)
    logger.close()
    assert not (tmp_path / "wandb").exists()


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"logger\.wandb\.mode=onlin is not a mode of W&B; write online, offline"
    ):
        dashboard(tmp_path, mode="onlin")


def test_an_alert_is_in_the_file_of_the_run(tmp_path: Path) -> None:
    logger = SafeLogger(dashboard(tmp_path, mode="offline"))
    logger.alert("The run failed", "no room", "ERROR")
    logger.finalize("failed")
    wandb.teardown()
    (alert,) = [record["alert"] for record in inspected(tmp_path) if record["type"] == "alert"]
    assert (alert["title"], alert["text"], alert["level"]) == ("The run failed", "no room", "ERROR")
    SafeLogger(RecordingLogger()).alert("The run failed", "no room", "ERROR")  # sends none
