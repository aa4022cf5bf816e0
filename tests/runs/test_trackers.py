"""Whole trainings with every tracker at once: killed, continued, and read back from what each of them keeps."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from etude.runs.record import RECORD, Event, read

ALL = "logger=[wandb,tensorboard,mlflow,trackio,csv]"
EXPERIMENT = "classification/demo"
Values = list[tuple[int, str, float]]
"""Step, name and value, sorted."""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a person without keys and servers, whose Trackio has a folder of its own."""
    ours = ("WANDB_", "MLFLOW_", "TRACKIO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "TRACKIO_DIR": str(folder / "trackio"), "NETRC": str(folder / "none"), "WANDB_MODE": "offline"}


def etude(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "etude", *words],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a command that goes well, and return what it said to the person."""
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return said


def kill_after(process: subprocess.Popen[str], record: Path, lines: int) -> None:
    """Kill a process and its children once the record has so many lines."""
    deadline = time.monotonic() + 100
    while not record.exists() or record.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def of_record(run: Path) -> tuple[list[Event], Values]:
    events = read(run / RECORD)
    return events, sorted((event.step, name, value) for event in events for name, value in event.values.items())


def of_wandb(run: Path, names: set[str]) -> Values:
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    answers = [subprocess.run([*command, str(file)], capture_output=True, text=True, check=True) for file in files]
    records = [json.loads(line) for answer in answers for line in answer.stdout.splitlines()]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return sorted((item["trainer/global_step"], name, item[name]) for item in items for name in names & item.keys())


def of_tensorboard(run: Path, names: set[str]) -> Values:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return sorted((one.step, name, one.value) for name in names for one in events.Scalars(name))


def of_mlflow(run: Path, names: set[str]) -> Values:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parents[2]}/mlflow.db")
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    (one,) = client.search_runs([found.experiment_id])
    assert one.info.status == "FINISHED"
    return sorted(
        (value.step, name, value.value) for name in names for value in client.get_metric_history(one.info.run_id, name)
    )


READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([SQLiteStorage.get_logs("etude", run_id=sys.argv[1]), SQLiteStorage.get_run_records("etude"),
    SQLiteStorage.get_run_config("etude", run_id=sys.argv[1])]))
"""


def of_trackio(run: Path, names: set[str]) -> Values:
    words = [sys.executable, "-c", READ_TRACKIO, (run / "id").read_text().strip()]
    where = environment(run.parents[3])
    answer = subprocess.run(words, capture_output=True, text=True, check=True, env=where)
    rows, records, configuration = json.loads(answer.stdout)
    assert (len(records), configuration["state"]) == (1, "finished")
    return sorted((row["step"], name, row[name]) for row in rows for name in names & row.keys())


def of_csv(run: Path, names: set[str]) -> Values:
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    return sorted((int(row["step"]), name, float(row[name])) for row in rows for name in names if row.get(name))


READERS: dict[str, Callable[[Path, set[str]], Values]] = {
    "wandb": of_wandb,
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
    "csv": of_csv,
}


def assert_complete(run: Path) -> None:
    """Every tracker has every value of the record once; values of the wall clock are those of one of the processes."""
    _, expected = of_record(run)
    # Test scores and costs are sent besides, under names of their own.
    names = {name for _, name, _ in expected}
    for service, reader in READERS.items():
        found = reader(run, names)
        assert [one[:2] for one in found] == [one[:2] for one in expected], service
        for (step, name, value), (_, _, true) in zip(found, expected, strict=True):
            equal = value == pytest.approx(true, rel=1e-6) or (isnan(value) and isnan(true))
            assert equal or name.startswith("speed/"), (service, step, name)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(3,), (9, 17, 12)], ids=str)
def test_a_killed_run_is_one_run_with_every_value_once(
    kills: tuple[int, ...], tmp_path: Path, overrides: Callable[..., list[str]]
) -> None:
    words = overrides(
        "classification", ALL, "budget=60step", "validate.every=20step", "checkpoint.every=7step", "run.name=one"
    )
    run = tmp_path / "outputs" / EXPERIMENT / "one"
    for lines in kills:
        before = (run / RECORD).read_bytes().count(b"\n") if (run / RECORD).exists() else 0
        kill_after(etude(tmp_path, "train", *words), run / RECORD, max(lines, before + 1))
    finished(etude(tmp_path, "train", *words))
    assert_complete(run)


@pytest.mark.slow
def test_trackers_say_nothing_to_a_person_and_know_of_the_signal(
    tmp_path: Path, overrides: Callable[..., list[str]]
) -> None:
    from mlflow import MlflowClient

    words = overrides("classification", "budget=9000step", "validate.every=9000step", "log.every=10step")
    finished(etude(tmp_path, "prepare", *(word for word in words if not word.startswith(("trainer", "logger")))))
    without = [*words, "run.name=without", "logger=none"]
    said = [_stopped(tmp_path, "without", without), _stopped(tmp_path, "with", [*words, "run.name=with", ALL])]
    assert said[0].replace("without", "with") == said[1]
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    assert [one.info.status for one in client.search_runs([found.experiment_id])] == ["KILLED"]


def _stopped(folder: Path, name: str, words: list[str]) -> str:
    """Begin a run, end it by SIGTERM, and return what it said, without numbers."""
    process = etude(folder, "train", *words)
    record = folder / "outputs" / EXPERIMENT / name / RECORD
    while not record.exists() or record.read_bytes().count(b"\n") < 150:  # long enough for the last tracker to start
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    return "".join("#" if character.isdigit() else character for character in said)
