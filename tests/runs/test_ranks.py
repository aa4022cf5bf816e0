"""Several processes on one machine train what one does, through the same command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.runs.record import RECORD, read, series
from etude.training.launch import LOST
from tests.conftest import ROOT
from tests.runs.conftest import TASKS
from tests.runs.processes import STEP, Ended, Sent, command, ended, gone, run

Overrides = Callable[..., list[str]]
PLAIN = ("model.dropout=0.0", "run.name=x")
WITHOUT_DROPOUT = {
    task: (*PLAIN, "task.head_dropout=0.0") if task.endswith("classification") else PLAIN for task in TASKS
}


def assert_close(folder: Path, other: Path) -> None:
    """Two runs have the same losses to float error, and the same scores."""
    events, others = read(folder / RECORD), read(other / RECORD)
    steps, losses = series(events, "train/loss")
    assert steps == list(range(1, 9))
    other_steps, other_losses = series(others, "train/loss")
    assert other_steps == steps
    assert other_losses == pytest.approx(losses, abs=1e-5)
    validations = [event for event in events if "val/loss" in event.values]
    assert [event.step for event in validations] == [4, 8]
    for event, same in zip(validations, [event for event in others if "val/loss" in event.values], strict=True):
        assert event.values == pytest.approx(same.values, abs=1e-5)
    scores = [json.loads((each / "finished.json").read_text())["scores"] for each in (folder, other)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    rows = [(each / "evaluations" / "test.jsonl").read_text().splitlines() for each in (folder, other)]
    assert [json.loads(row)["id"] for row in rows[0]] == [json.loads(row)["id"] for row in rows[1]]


@pytest.mark.parametrize(
    "task",
    [
        "classification",
        *(pytest.param(task, marks=pytest.mark.slow) for task in ("translation", "masked_lm", "token_classification")),
    ],
)
def test_two_ranks_train_what_one_does(overrides: Overrides, tmp_path: Path, task: str) -> None:
    folders = []
    for devices in (1, 2):
        words = overrides(task, *WITHOUT_DROPOUT[task], f"trainer.devices={devices}", f"run.experiment=on{devices}")
        left = run(tmp_path / f"{devices}", ["train", *words])
        assert left.code == 0, left.log[-3000:]
        assert left.out.count("\n") == 1
        assert len(left.ranks) == (devices if devices > 1 else 0)
        folders.append(Path(left.out.strip()))
    assert_close(folders[1], folders[0])
    again = run(tmp_path / "evaluate", ["evaluate", *map(str, folders)])
    assert again.code == 0, again.log[-3000:]
    found = json.loads(again.out)  # one object, from one process
    for folder in folders:
        stored = json.loads((folder / "finished.json").read_text())["scores"]
        assert found[str(folder)]["scores"] == pytest.approx(stored, abs=1e-5)


@pytest.mark.slow
def test_a_sweep_over_devices_goes_on_after_a_failing_member(overrides: Overrides, tmp_path: Path) -> None:
    words = [word for word in overrides("classification", "budget=2step") if "data.val" not in word]
    train = next(word for word in words if word.startswith("data.train=")).removeprefix("data.train=")
    missing = tmp_path / "missing.tsv"  # found by the ranks, which read the data
    members = ("trainer.devices=2,1", f"data.val={train},{missing}")
    left = run(tmp_path / "sweep", ["train", "-m", *words, *members])
    assert left.code == 1, left.log[-3000:]
    assert "2 of 4 members failed, the others are finished: member 001" in left.said[-1], left.said
    assert "Traceback" not in left.log
    finished = sorted(path.parent.name for path in (tmp_path / "outputs").glob("classification/demo/*/*/finished.json"))
    assert finished == ["000", "002"]


@pytest.mark.slow
def test_bfloat16(overrides: Overrides, tmp_path: Path) -> None:
    words = overrides("masked_lm", "precision=bf16-mixed", "budget=4step")
    left = run(tmp_path / "half", ["train", *words])
    assert left.code == 0, left.log[-3000:]
    _, losses = series(read(Path(left.out.strip()) / RECORD), "train/loss")
    assert len(losses) == 4
    assert all(1.0 < loss < 6.0 for loss in losses)


def as_launched(folder: Path, words: list[str], *sent: Sent) -> list[Ended]:
    """Run a command in two processes, with the variables that torchrun sets."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    started = [
        command(folder / f"{rank}", words, *sent, variables={**shared, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"})
        for rank in (0, 1)
    ]
    return [ended(folder / f"{rank}", process) for rank, process in enumerate(started)]


def test_ranks_of_another_launcher_are_left_as_they_are(overrides: Overrides, tmp_path: Path) -> None:
    words = ["train", *overrides("classification", "trainer.devices=2", "run.name=x")]
    first, second = as_launched(tmp_path, words)
    assert (first.code, second.code) == (0, 0), first.log[-2000:] + second.log[-2000:]
    assert not first.ranks
    assert not second.ranks
    assert (first.out.count("\n"), second.out) == (1, "")
    assert series(read(Path(first.out.strip()) / RECORD), "train/loss")[0] == list(range(1, 9))


@pytest.mark.slow
def test_a_lost_rank_of_another_launcher_is_one_line(overrides: Overrides, tmp_path: Path) -> None:
    words = ["train", *overrides("classification", "trainer.devices=2", "run.name=x")]
    for lost in (0, 1):
        left = as_launched(tmp_path / f"{lost}", words, Sent(STEP, 3, (signal.SIGKILL,), rank=lost))
        assert left[lost].code == -signal.SIGKILL
        other = left[1 - lost]
        assert other.code == LOST, other.log[-2000:]
        (said,) = other.said
        assert f"rank {1 - lost} lost another rank" in said
        assert "Traceback" not in other.log
    again = as_launched(tmp_path / "again", words)
    assert [each.code for each in again] == [0, 0], again[0].log[-2000:]


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed(overrides: Overrides, tmp_path: Path) -> None:
    """As a person does it, with processes of its own and nothing put in the place of anything."""
    recorder = ("trust=[tests]", "++callbacks.recorder._target_=tests.runs.processes.KilledInStep")
    words = overrides("classification", "trainer.devices=2", "run.name=x", *recorder)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "etude"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    left = subprocess.run(
        [*torchrun, "train", *words, "++callbacks.recorder.step=3", f"++callbacks.recorder.note={tmp_path}/ranks"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert left.returncode != 0
    assert left.stderr.count("etude: error: rank 0 lost another rank") == 1, left.stderr[-3000:]
    assert "etude/experiment" not in left.stderr  # torchrun's own traceback is of its own files
    ranks = [int(line) for line in (tmp_path / "ranks").read_text().split()]
    assert len(ranks) == 2
    assert all(gone(process) for process in ranks)
