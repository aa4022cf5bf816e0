"""Runs whose layers are recomputed or compiled: the same losses, the same names of weights, and a record that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.checkpoints.checkpoint import read_tensors
from etude.runs.record import RECORD, read, series
from etude.training.callbacks.compilation import FAILED, SECONDS
from tests.runs.conftest import TASKS
from tests.runs.doors import fit
from tests.runs.killing import begin
from tests.runs.processes import run

SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task != "translation"]
SAVED = "checkpoint.every=8step"


def losses(run: Any) -> list[str]:
    return [loss.hex() for loss in series(read(run / RECORD), "train/loss")[1]]


@pytest.mark.parametrize("task", ["translation", *SLOW])
def test_recomputed_activations_change_no_bit(composed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    runs = []
    for flag in ("false", "true"):
        words = ("model.dropout=0.2", SAVED, f"trainer.checkpoint_activations={flag}")
        runs.append(begin(tmp_path / flag, composed(task, *words)))
        fit(runs[-1])
    assert losses(runs[0]) == losses(runs[1])
    weights = [read_tensors(run / "checkpoints" / "step-00000008", "model") for run in runs]
    assert list(weights[0]) == list(weights[1])
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_neither_do_they_with_several_ranks_and_two_passes(
    overrides: Callable[..., list[str]], tmp_path: Path, strategy: str
) -> None:
    ranks = ("trainer.devices=2", f"trainer.strategy={strategy}", "trainer.oversubscribe=true", "trainer.threads=1")
    found = []
    for flag in ("false", "true"):
        changed = ("model.dropout=0.2", "task/consistency=r_drop", f"trainer.checkpoint_activations={flag}")
        words = overrides("translation", *changed, *ranks)
        left = run(tmp_path, ["train", *words, f"run.name=recomputed-{flag}"])
        assert left.code == 0, left.log[-3000:]
        found.append(losses(Path(left.out.strip())))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_learns_what_a_plain_one_does(
    overrides: Callable[..., list[str]], tmp_path: Path, task: str, backend: str
) -> None:
    folders = []
    for compiler in ("null", backend):
        words = overrides(task, "model.dropout=0.0", SAVED, f"trainer.compile={compiler}", f"run.name=by-{compiler}")
        left = run(tmp_path, ["train", *words])
        assert left.code == 0, left.log[-3000:]
        folders.append((Path(left.out.strip()), left.log))
    (plain, _), (compiled, log) = folders
    found, expected = (series(read(folder / RECORD), "train/loss")[1] for folder in (compiled, plain))
    assert found == pytest.approx(expected, rel=1e-4)
    assert log.count(f"compiled by {backend} in ") == 1
    assert sum(series(read(compiled / RECORD), SECONDS)[1]) > 0
    assert not series(read(compiled / RECORD), FAILED)[1]
    names = [list(read_tensors(folder / "checkpoints" / "step-00000008", "model")) for folder in (plain, compiled)]
    assert names[0] == names[1]
