"""A member that its sweep prunes ends after that validation, and at the same one when it is killed and continued."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from etude.runs.documents import PRUNED
from etude.sweeps.reports import REPORTS, answer, open_reports, read_answer
from etude.training.callbacks import pruning
from etude.training.callbacks.pruning import StopWhenPruned
from tests.training.callbacks.conftest import OneWeight

MODULE = cast(Any, None)


def trainer_with(
    score: float | None, step: int = 1, fn: str = "fit", first_rank: bool = True, told: bool = False
) -> Any:
    """A trainer after a validation; on a rank that is not the first, `told` is what the first one broadcasts."""
    return SimpleNamespace(
        callback_metrics={} if score is None else {"val/loss": torch.tensor(score)},
        should_stop=False,
        global_step=step,
        is_global_zero=first_rank,
        strategy=SimpleNamespace(broadcast=lambda value: value if first_rank else told),
        state=SimpleNamespace(fn=fn),
    )


def answered(run: Path, *answers: bool) -> None:
    """Answer validations before they are reported, as for a run that is continued."""
    (run / REPORTS).mkdir(exist_ok=True)
    for index, ends in enumerate(answers, 1):
        answer(run, index, ends)


def validated(callback: StopWhenPruned, *scores: float | None) -> list[bool]:
    """Return for each validation whether the training stopped after it."""
    stops = []
    for step, score in enumerate(scores, 1):
        trainer = trainer_with(score, 10 * step)
        callback.on_validation_end(trainer, MODULE)
        stops.append(trainer.should_stop)
    return stops


def reported(run: Path) -> dict[int, tuple[int, float]]:
    """Steps and scores of what a run has reported, by number of the validation."""
    reports = [json.loads(path.read_text()) for path in (run / REPORTS).glob("*.json") if "answer" not in path.name]
    return {one["index"]: (one["step"], one["value"]) for one in reports}


class Sweep:
    """Answers a run's reports from another thread; it ends the run at one of its validations."""

    def __init__(self, run: Path, ends_at: int) -> None:
        self._run, self._ends_at = run, ends_at
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _answer(self) -> None:
        while not self._over.is_set():
            for report in open_reports(self._run):
                answer(self._run, report.index, report.index == self._ends_at)
            time.sleep(0.005)


def test_a_run_goes_on_until_its_sweep_ends_it(tmp_path: Path) -> None:
    callback = StopWhenPruned(tmp_path, "val/loss")
    with Sweep(tmp_path, ends_at=3):
        assert validated(callback, 4.0, 3.0, 2.5) == [False, False, True]
    assert callback.reason == f"{PRUNED} after 3 validations: val/loss was 2.5"
    assert reported(tmp_path) == {1: (10, 4.0), 2: (20, 3.0), 3: (30, 2.5)}


def test_after_its_end_nothing_is_reported(tmp_path: Path) -> None:
    answered(tmp_path, True)
    callback = StopWhenPruned(tmp_path, "val/loss")
    assert validated(callback, 4.0, 3.0) == [True, False]
    assert set(reported(tmp_path)) == {1}


def test_what_is_validated_outside_of_training_is_not_reported(tmp_path: Path) -> None:
    callback = StopWhenPruned(tmp_path, "val/loss")
    callback.on_validation_end(trainer_with(1.0, fn="validate"), MODULE)
    assert not (tmp_path / REPORTS).exists()
    assert callback.state_dict() == {"index": 0, "reason": None}


@pytest.mark.parametrize("score", [math.nan, None])
def test_a_score_that_is_none_is_not_reported_and_the_next_is_answered(tmp_path: Path, score: float | None) -> None:
    callback = StopWhenPruned(tmp_path, "val/loss")
    with Sweep(tmp_path, ends_at=3):
        assert validated(callback, score, 2.0, 1.0) == [False, False, True]
    assert set(reported(tmp_path)) == {2, 3}


def test_a_run_whose_sweep_does_not_answer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pruning, "PATIENCE", 0.05)
    callback = StopWhenPruned(tmp_path, "val/loss")
    assert validated(callback, 4.0) == [False]
    assert f"the sweep does not answer; the run goes on ({tmp_path})" in caplog.text
    assert callback.reason is None


@pytest.mark.parametrize("told", [False, True])
def test_other_ranks_do_what_the_first_was_told(tmp_path: Path, told: bool) -> None:
    callback, trainer = StopWhenPruned(tmp_path, "val/loss"), trainer_with(4.0, first_rank=False, told=told)
    callback.on_validation_end(trainer, MODULE)
    assert trainer.should_stop == told
    assert not (tmp_path / REPORTS).exists()
    assert callback.reason == (f"{PRUNED} after 1 validations: val/loss was 4" if told else None)


def test_a_run_that_had_ended_does_no_step_more(tmp_path: Path) -> None:
    answered(tmp_path, True)
    ended = StopWhenPruned(tmp_path, "val/loss")
    validated(ended, 4.0)
    continued = StopWhenPruned(tmp_path, "val/loss")
    continued.load_state_dict(json.loads(json.dumps(ended.state_dict())))
    trainer = trainer_with(None)
    continued.on_train_start(trainer, MODULE)
    assert trainer.should_stop
    assert continued.reason == ended.reason
    fresh = trainer_with(None)
    StopWhenPruned(tmp_path, "val/loss").on_train_start(fresh, MODULE)
    assert not fresh.should_stop


@pytest.mark.parametrize("saved", [0, 1, 2])
@pytest.mark.parametrize("said", [1, 2, 3])
def test_a_run_that_is_killed_and_continued_ends_at_the_same_validation(tmp_path: Path, saved: int, said: int) -> None:
    """Killed after so many validations were told, it goes on from a checkpoint after so many; the sweep is asked anew."""
    scores, straight, killed = [4.0, 3.0, 2.5, 2.0], tmp_path / "straight", tmp_path / "killed"
    whole = StopWhenPruned(straight, "val/loss")
    with Sweep(straight, ends_at=3):
        validated(whole, *scores[:3])
    first = StopWhenPruned(killed, "val/loss")
    state: dict[str, Any] = first.state_dict()
    with Sweep(killed, ends_at=3):
        for place, score in enumerate(scores[:said], 1):
            first.on_validation_end(trainer_with(score, 10 * place), MODULE)
            state = first.state_dict() if place == min(saved, said) else state
    # What was answered stays, whatever the sweep would say now.
    with Sweep(killed, ends_at=3 if said < 3 else 99):
        continued = StopWhenPruned(killed, "val/loss")
        continued.load_state_dict(state)
        for place in range(state["index"], 3):
            trainer = trainer_with(scores[place], 10 * (place + 1))
            continued.on_validation_end(trainer, MODULE)
            assert trainer.should_stop == (place == 2)
    assert continued.state_dict() == whole.state_dict()
    assert reported(killed) == reported(straight)


def test_a_report_that_was_made_before_the_kill_is_not_made_again(tmp_path: Path) -> None:
    callback = StopWhenPruned(tmp_path, "val/loss")
    with Sweep(tmp_path, ends_at=9):
        validated(callback, 4.0)
    (report,) = (tmp_path / REPORTS).glob("1.json")
    before = report.stat().st_mtime_ns
    assert validated(StopWhenPruned(tmp_path, "val/loss"), 5.0) == [False]
    assert report.stat().st_mtime_ns == before


def test_lightning_ends_the_training_after_that_validation(tmp_path: Path) -> None:
    task, run = OneWeight(), tmp_path / "run"
    callback = StopWhenPruned(run, "val/loss")
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=20,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[callback],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = DataLoader([torch.zeros(1)] * 4)  # type: ignore[arg-type]
    with Sweep(run, ends_at=3):
        trainer.fit(task, batches, batches)
    assert trainer.global_step == 6
    assert callback.reason is not None
    assert callback.reason.startswith(f"{PRUNED} after 3 validations")
    assert {index: step for index, (step, _) in reported(run).items()} == {1: 2, 2: 4, 3: 6}
    assert [read_answer(run, index) for index in (1, 2, 3, 4)] == [False, False, True, None]
