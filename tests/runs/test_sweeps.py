"""A sweep of real processes: killed in any of its parts and given again, it comes to what an undisturbed one comes to."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from etude.runs.lock import holder
from etude.sweeps.saved_sweep import SavedSweep
from tests.conftest import ROOT
from tests.runs.killing import assert_same, end
from tests.runs.processes import gone

Overrides = Callable[..., list[str]]
LENGTHS = ("callbacks=averaged", "budget=12step", "validate.every=4step", "checkpoint.every=2step")
SWEPT = ("optimizer.lr=1e-3,2e-3", "seed=1,2", "sweep.name=x", "run.experiment=swept", "hydra.launcher.slots=2")


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "etude", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def done(words: Sequence[str]) -> tuple[int, str, str]:
    process = start(words)
    out, log = process.communicate(timeout=400)
    return process.returncode, out, log


def when(folder: Path, condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for something to come about in a sweep's folder."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, sorted(path.name for path in folder.rglob("*"))[:50]
        time.sleep(0.02)


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def members(sweep: int) -> list[int]:
    """The processes of the members that run: children of the process that forks them."""
    return [member for server in children(sweep) for member in children(server)]


def wait_for_another(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until one more member is finished."""

    def finished() -> int:
        return len(list(folder.glob("*/finished.json")))

    before = finished()
    when(folder, lambda: finished() > before or process.poll() is not None)
    assert process.poll() is None, "it came to its end before it was killed ten times"


@pytest.fixture
def words(overrides: Overrides) -> list[str]:
    return overrides(
        "translation", "callbacks=averaged", "budget=12step", "validate.every=4step", "checkpoint.every=2step", *SWEPT
    )


@pytest.mark.slow
def test_a_killed_sweep_comes_to_the_same(words: list[str], tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    code, out, log = done(["train", "-m", *words, f"{outputs}/whole"])
    assert code == 0, log[-3000:]
    whole = Path(out.strip())
    assert whole == tmp_path / "whole" / "swept" / "x"
    folder = tmp_path / "killed" / "swept" / "x"
    process = start(["train", "-m", *words, f"{outputs}/killed"])
    when(folder, lambda: len(list(folder.glob("00[01]/checkpoints/step-*"))) > 0)
    kill(members(process.pid)[0])  # one member: it is tried again
    when(folder, lambda: any(json.loads(path.read_text())["attempts"] for path in folder.glob("*/member.json")))
    running = members(process.pid)
    kill(process.pid)  # the sweep: its members end with it
    process.communicate()
    for member in running:
        assert gone(member)
    code, out, log = done(["train", "-m", *words, f"{outputs}/killed"])
    assert code == 0, log[-3000:]
    assert Path(out.strip()) == folder
    found = SavedSweep.open(folder)
    assert [member.state for member in found.members] == ["finished"] * 4
    for one in found.members:
        assert_same(end(one.path), end(whole / one.path.name))
    # One of them alone is what the same words train by themselves with as many threads.
    alone = [word for word in words if word.partition("=")[0] not in ("sweep.name", "hydra.launcher.slots")]
    given = {"optimizer.lr": "optimizer.lr=1e-3", "seed": "seed=2"}
    alone = [given.get(word.partition("=")[0], word) for word in alone]
    threads = str(found.document.threads)
    single = subprocess.run(
        [sys.executable, "-m", "etude", "train", *alone, "run.name=alone", f"{outputs}/alone"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads},
        check=True,
    )
    assert_same(end(Path(single.stdout.strip())), end(whole / "001"))


@pytest.mark.slow
def test_a_signal_stops_all_members_in_good_order(words: list[str], tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    long = [word for word in words if not word.startswith("budget=")]
    process = start(["sweep", *long, outputs, "budget=4000step"])
    folder = tmp_path / "swept" / "x"
    when(folder, lambda: len(list(folder.glob("00[01]/checkpoints/step-*"))) > 1)
    assert holder(folder) == process.pid
    again = done(["sweep", *long, outputs, "budget=4000step"])
    assert again[0] == 73
    assert f"{folder} is in use by process {process.pid}" in again[2]
    running = members(process.pid)
    assert len(running) == 2
    stopped = done(["sweep", "stop", "x", outputs])
    assert stopped[0] == 0, stopped[2]
    assert "2 stopped, 2 waiting; nothing runs it" in stopped[1]
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log[-2000:]
    assert f"stopped by SIGTERM with 4 members to go; continue with: etude sweep resume {folder}" in log
    assert not any(Path(f"/proc/{member}").exists() for member in running)
    for name in ("000", "001"):
        assert "is saved; continue with" in (folder / name / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_four_members_are_killed_ten_times(overrides: Overrides, tmp_path: Path) -> None:
    swept = ("optimizer.lr=1e-3,2e-3", "seed=range(1,13)", "sweep.name=x", "run.experiment=swept")
    every = (
        "callbacks=averaged",
        "budget=12step",
        "validate.every=4step",
        "checkpoint.every=2step",
        "hydra.launcher.slots=2",
    )
    written = overrides("translation", *every, *swept)
    code, out, log = done(["train", "-m", *written, f"paths.outputs={tmp_path}/whole"])
    assert code == 0, log[-3000:]
    whole, folder = Path(out.strip()), tmp_path / "killed" / "swept" / "x"
    chance, kills = random.Random(24), 0
    process = start(["train", "-m", *written, f"paths.outputs={tmp_path}/killed"])
    while kills < 10:
        wait_for_another(folder, process)
        time.sleep(chance.random())
        running, servers = members(process.pid), children(process.pid)
        parts = {
            "member": running[:1],
            "server": servers,
            "sweep": [process.pid],
            "all": [process.pid, *servers, *running],
        }
        part = chance.choice(list(parts))
        for victim in parts[part]:
            kill(victim)
        kills += bool(parts[part])
        if part in ("sweep", "all"):
            process.communicate()
            process = start(["train", "-m", *written, f"paths.outputs={tmp_path}/killed"])
    _, log = process.communicate(timeout=1000)
    assert process.returncode == 0, log[-3000:]
    found = SavedSweep.open(folder)
    assert [member.state for member in found.members] == ["finished"] * 24
    for one in found.members:
        assert_same(end(one.path), end(whole / one.path.name))


@pytest.mark.slow
def test_the_road_from_text_to_few_labels_is_one_sweep(tmp_path: Path) -> None:
    """Shortened: the pretraining and the fine-tunings have budgets of their own, so the file is written anew with small ones."""
    text = (ROOT / "conf" / "search" / "road_imdb.yaml").read_text()
    short = re.sub(r"budget: \d+step", "budget: 4step", text).replace(
        "validate.every: 2000step", "validate.every: 4step"
    )
    (tmp_path / "conf" / "search").mkdir(parents=True)
    (tmp_path / "conf" / "search" / "short.yaml").write_text(short.replace("limit.train: null", "limit.train: 300"))
    place = ["logger=none", "trainer.progress_bar=false", "log.every=2step", f"paths.outputs={tmp_path}"]
    words = [
        "sweep",
        "--config-dir",
        str(tmp_path / "conf"),
        "search=short",
        "labels=100",
        "seed=1,2",
        "hydra.launcher.slots=2",
    ]
    code, out, log = done([*words, *place])
    assert code == 0, log[-3000:]
    sweep = SavedSweep.open(out.strip())
    stages = [member.document.stage for member in sweep.members]
    assert stages == ["pretraining"] * 2 + ["pretrained"] * 2 + ["new_weights"] * 2 + ["minilm"] * 2
    assert [member.state for member in sweep.members] == ["finished"] * 8
    for member in sweep.members[2:4]:
        manifest = json.loads((member.path / "manifest.json").read_text())
        start = sweep.path / f"{member.document.start:03d}"
        assert manifest["start"]["run"] == str(start)
        assert json.loads((start / "manifest.json").read_text())["seed"] == manifest["seed"]
    again = done([*words, *place])
    assert again[:2] == (0, out)
    assert "is finished; nothing to do" in again[2]
