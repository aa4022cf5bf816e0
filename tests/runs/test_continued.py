"""Laws 1 to 4: continued from any step, on any machine, a run goes on with the same batches to the same end."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.checkpoints.loop_state import recount
from tests.runs.conftest import TASKS
from tests.runs.doors import fit, resume
from tests.runs.killing import BATCH, EXACT, assert_same, begin, end

NO_DROPOUT = {
    "translation": ("model.dropout=0.0",),
    "masked_lm": ("model.dropout=0.0",),
    "causal_lm": ("model.dropout=0.0",),
    "classification": ("model.dropout=0.0", "task.head_dropout=0.0"),
    "token_classification": ("model.dropout=0.0", "task.head_dropout=0.0"),
}
SLOW = ("causal_lm", "masked_lm", "token_classification", "translation")
RECORDER = "++callbacks.recorder._target_=tests.runs.killing.BatchRecorder"


def continue_from_every_step(run: Path, steps: list[int]) -> None:
    """Run to the end with a checkpoint at each step; then go on from some of them, and compare."""
    fit(run)
    expected = end(run)
    for step in steps:
        again = run.with_name(f"from-{step}")
        shutil.copytree(run, again, symlinks=True, ignore=shutil.ignore_patterns("finished.json", "evaluations"))
        for path in (again / "checkpoints").glob("step-*"):
            if int(path.name[5:]) > step:
                shutil.rmtree(path)
        for link in ("last", "best"):  # as if the process had been killed before it set them
            (again / "checkpoints" / link).unlink()
        fit(again)
        assert_same(end(again), expected)


@pytest.mark.parametrize("task", [pytest.param(task, marks=pytest.mark.slow if task in SLOW else ()) for task in TASKS])
def test_continued_from_every_step(composed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    """All steps of two epochs; each task takes every third one."""
    settings = (*EXACT, BATCH[task], "budget=12step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    run = begin(tmp_path / "whole", composed(task, *settings))
    continue_from_every_step(run, list(range(1 + TASKS.index(task), 13, 3)))


@pytest.mark.parametrize("optimizer", ["muon", "adamw_8bit"])
def test_optimizers_with_states_of_their_own_go_on_too(
    composed: Callable[..., Any], tmp_path: Path, optimizer: str
) -> None:
    settings = (
        *EXACT,
        BATCH["causal_lm"],
        f"optimizer={optimizer}",
        "budget=6step",
        "checkpoint.every=1step",
        "checkpoint.keep_last=100",
    )
    with torch.compiler.set_stance("force_eager"):  # it takes a minute to compile the updates of 8-bit moments
        continue_from_every_step(begin(tmp_path / "whole", composed("causal_lm", *settings)), [1, 4])


@pytest.mark.slow
def test_compiled_updates_go_on_too(composed: Callable[..., Any], tmp_path: Path) -> None:
    settings = (
        *EXACT,
        BATCH["causal_lm"],
        "optimizer=adamw_8bit",
        "budget=4step",
        "checkpoint.every=1step",
        "checkpoint.keep_last=100",
    )
    continue_from_every_step(begin(tmp_path / "whole", composed("causal_lm", *settings)), [2])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", TASKS)
def test_continued_from_each_of_sixty_steps(composed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    settings = (*EXACT, BATCH[task], "budget=60step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    run = begin(tmp_path / "whole", composed(task, *settings))
    continue_from_every_step(run, list(range(1, 61)))


# Another machine


def elastic(composed: Callable[..., Any], folder: Path, task: str, *more: str) -> Path:
    """Begin a run without dropout that writes down its batches."""
    settings = (*EXACT, BATCH[task], *NO_DROPOUT[task], "trust=[tests]", "scheduler.warmup=1step", *more)
    recorder = (RECORDER, f"++callbacks.recorder.folder={folder}-batches")
    return begin(folder, composed(task, *settings, *recorder))


def batches(run: Path) -> dict[int, set[int]]:
    """The examples of each step, whatever slices they were trained on in."""
    found: dict[int, list[int]] = defaultdict(list)
    for path in Path(f"{run}-batches").iterdir():
        found[int(path.name.split("-")[0])] += [example for example in json.loads(path.read_text()) if example >= 0]
    for step, examples in found.items():
        assert len(set(examples)) == len(examples), f"step {step} has an example twice"
    return {step: set(examples) for step, examples in found.items()}


def losses(run: Path) -> dict[str, list[float]]:
    """Every loss of the record, and the gradients' norms, by name."""
    lines = [json.loads(line)["values"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("train/loss", "train/gradient_norm", "val/loss", "test/loss")
    return {name: [line[name] for line in lines if name in line] for name in names}


def assert_same_but_for_rounding(run: Path, whole: Path) -> None:
    assert batches(run) == batches(whole)
    assert len(batches(run)) == 17
    found, expected = losses(run), losses(whole)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name


def only_until(run: Path, step: int) -> None:
    """Forget what came after a step, as if the process had been killed there."""
    (run / "finished.json").unlink()
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    for path in Path(f"{run}-batches").iterdir():
        if int(path.name.split("-")[0]) >= step:
            path.unlink()


@pytest.mark.parametrize(
    "task", ["translation", *(pytest.param(task, marks=pytest.mark.slow) for task in ("masked_lm", "classification"))]
)
def test_continued_with_other_micro_batches_and_workers(
    composed: Callable[..., Any], tmp_path: Path, task: str
) -> None:
    """2 slices up to step 6, inside an epoch; then 1 up to 12; then 3, with a worker."""
    whole = elastic(composed, tmp_path / "whole", task, "checkpoint.keep_last=100")
    fit(whole)
    run = elastic(composed, tmp_path / "run", task, "checkpoint.keep_last=100")
    fit(run)
    for step, machine in (
        (6, {"trainer.micro_batches": 1}),
        (12, {"trainer.micro_batches": 3, "trainer.workers": 1}),
    ):
        only_until(run, step)
        resume(run, machine)
    assert_same_but_for_rounding(run, whole)
    assert [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()] == [
        {"step": 6, "changed": {"trainer.micro_batches": "2 -> 1"}},
        {"step": 12, "changed": {"trainer.micro_batches": "1 -> 3", "trainer.workers": "0 -> 1"}},
    ]


@pytest.mark.slow
def test_continued_on_two_devices_and_back(
    composed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = "translation"
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}:{Path.cwd() / 'src'}")
    whole = elastic(composed, tmp_path / "whole", task, "checkpoint.keep_last=100")
    fit(whole)
    run = elastic(composed, tmp_path / "run", task, "checkpoint.keep_last=100")
    fit(run)
    for step, machine in ((6, {"trainer.devices": 2, "trainer.micro_batches": 1}), (12, {"trainer.devices": 1})):
        only_until(run, step)
        resume(run, machine)
    assert_same_but_for_rounding(run, whole)


@pytest.mark.parametrize("micro_batches", [1, 2, 7])
def test_progress_is_recounted(micro_batches: int) -> None:
    """At step 5, the second step of an epoch of 3, with 2 slices; then with another number."""

    def counted(total: int, current: int) -> dict[str, Any]:
        of = {"total": total, "current": current}
        numbers = {name: {"ready": n, "started": n, "processed": n, "completed": n - 1} for name, n in of.items()}
        progress = {"epoch_loop.batch_progress": {**numbers, "is_last_batch": False}}
        return {"global_step": 5, "loops": {"fit_loop": progress}}

    checkpoint = counted(10, 4)
    recount(checkpoint, micro_batches)
    assert checkpoint == counted(5 * micro_batches, 2 * micro_batches)
    recount(checkpoint, 2)
    assert checkpoint == counted(10, 4)
