"""Several processes on one machine train what one does, through the same command."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.experiment.record import RECORD, read, series
from tests.runs.conftest import TASKS
from tests.runs.processes import command, ended, run

Overrides = Callable[..., list[str]]
PLAIN = ("model.dropout=0.0", "run.name=x")
WITHOUT_DROPOUT = {task: (*PLAIN, "task.head_dropout=0.0") if task == "classification" else PLAIN for task in TASKS}


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


@pytest.mark.parametrize("task", TASKS)
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


def test_a_sweep_over_devices_goes_on_after_a_failing_member(overrides: Overrides, tmp_path: Path) -> None:
    words = [word for word in overrides("classification", "budget=2step") if "data.val" not in word]
    train = next(word for word in words if word.startswith("data.train=")).removeprefix("data.train=")
    missing = tmp_path / "missing.tsv"  # found by the ranks, which read the data
    members = ("trainer.devices=2,1", f"data.val={train},{missing}")
    left = run(tmp_path / "sweep", ["train", "-m", *words, *members])
    assert left.code == 1, left.log[-3000:]
    assert left.out.count("\n") == 2, left.out
    assert sum("etude: error:" in line for line in left.said) == 2, left.said
    assert "Traceback" not in left.log
    for line in left.out.splitlines():
        assert (Path(line) / "finished.json").exists()


def test_bfloat16(overrides: Overrides, tmp_path: Path) -> None:
    words = overrides("masked_lm", "trainer.precision=bf16-mixed", "budget=4step")
    left = run(tmp_path / "half", ["train", *words])
    assert left.code == 0, left.log[-3000:]
    _, losses = series(read(Path(left.out.strip()) / RECORD), "train/loss")
    assert len(losses) == 4
    assert all(1.0 < loss < 6.0 for loss in losses)


def test_ranks_of_another_launcher_are_left_as_they_are(overrides: Overrides, tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    words = ["train", *overrides("classification", "trainer.devices=2", "run.name=x")]
    started = [
        command(tmp_path / f"{rank}", words, variables={**shared, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"})
        for rank in (0, 1)
    ]
    first, second = (ended(tmp_path / f"{rank}", process) for rank, process in enumerate(started))
    assert (first.code, second.code) == (0, 0), first.log[-2000:] + second.log[-2000:]
    assert not first.ranks
    assert not second.ranks
    assert (first.out.count("\n"), second.out) == (1, "")
    assert series(read(Path(first.out.strip()) / RECORD), "train/loss")[0] == list(range(1, 9))
