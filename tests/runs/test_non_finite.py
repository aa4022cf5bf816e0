"""What is not finite stops a run or is left out of it, on all ranks alike; a continued run does and says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.checkpoints.checkpoint import read as read_checkpoint
from etude.report.page import REPORT, report
from etude.runs.record import RECORD, read, series
from tests.runs.doors import fit
from tests.runs.killing import BATCH, EXACT, begin
from tests.runs.processes import run
from tests.runs.test_continued import continue_from_every_step
from tests.runs.test_ranks import WITHOUT_DROPOUT

Overrides = Callable[..., list[str]]
TASK = "classification"
EXPLODE = ("trust=[tests]", "++callbacks.explode._target_=tests.runs.exploding.Explode")


@pytest.mark.slow
def test_left_out_steps_and_spikes_survive_being_continued(
    composed: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = ("++callbacks.explode.gradients=[3]", "++callbacks.explode.losses=[5]", "++callbacks.explode.spikes=[24]")
    length = ("budget=26step", "validate.every=13step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    settings = (*EXACT, BATCH[TASK], *EXPLODE, *broken, *length, "non_finite=skip")
    folder = begin(tmp_path / "whole", composed(TASK, *settings))
    continue_from_every_step(folder, [2, 4, 23])

    events = [event for event in read(folder / RECORD) if "train/learning_rate" in event.values]
    assert [event.step for event in events] == list(range(1, 27))
    assert [event.step for event in events if "train/loss" not in event.values] == [3, 5]
    assert series(events, "train/skipped_steps")[1] == [0, 0, 1, 1, *[2] * 22]
    assert series(events, "train/spike") == ([24], [1.0])
    for step, same in ((3, True), (4, False), (5, True)):
        assert (training_state(folder, step) == training_state(folder, step - 1)) == same
    said = [line.partition(":")[0] for line in caplog.messages]
    assert said.count("step 3 is left out, 1 of at most 10") == 2  # in the whole run, and in that from step 2
    assert said.count("step 5 is left out, 2 of at most 10") == 3
    assert said.count("the loss spikes") == 4
    report(folder)
    page = (folder / REPORT).read_text()
    assert page.count('class="spike"') == 1
    assert "Spikes at the steps 24." in page


def training_state(folder: Path, step: int) -> tuple[list[float], list[float]]:
    """The trained weights, not their averages, and the optimizer's state, as numbers."""
    content = read_checkpoint(folder / "checkpoints" / f"step-{step:08d}", torch.device("cpu"))
    (averages,) = [state for state in content["callbacks"].values() if "weights" in state]
    moments = [value for state in content["optimizer_states"][0]["state"].values() for value in state.values()]
    return numbers(averages["weights"].values()), numbers(moments)


def numbers(tensors: Any) -> list[float]:
    return torch.cat([torch.as_tensor(tensor).double().reshape(-1) for tensor in tensors]).tolist()


@pytest.mark.parametrize("what", ["losses", pytest.param("gradients", marks=pytest.mark.slow)])
def test_a_step_that_one_rank_finds_broken_is_left_out_on_all(overrides: Overrides, tmp_path: Path, what: str) -> None:
    folders = []
    for devices in (1, 2):
        breaks = (*EXPLODE, f"++callbacks.explode.{what}=[3]", f"++callbacks.explode.only={devices - 1}")
        settings = (*WITHOUT_DROPOUT[TASK], *breaks, "non_finite=skip", "log.every=2step", "trainer.workers=0")
        words = overrides(TASK, *settings, f"trainer.devices={devices}", f"run.experiment=on{devices}")
        left = run(tmp_path / f"{devices}", ["train", *words])
        assert left.code == 0, left.log[-3000:]
        assert left.log.count("step 3 is left out, 1 of at most 10: ") == 1
        folders.append(Path(left.out.strip()))
    found, expected = (read(folder / RECORD) for folder in folders)
    assert (
        series(found, "train/skipped_steps") == series(expected, "train/skipped_steps") == ([2, 4, 6, 8], [0, 1, 1, 1])
    )
    for name in ("train/loss", "train/gradient_norm", "val/loss", "test/loss"):
        assert series(found, name)[1] == pytest.approx(series(expected, name)[1], abs=1e-5), name


def test_one_step_more_than_the_limit_stops_the_run(overrides: Overrides, tmp_path: Path) -> None:
    breaks = (*EXPLODE, "++callbacks.explode.losses=[2,4,5]", "non_finite=skip", "non_finite.limit=2")
    left = run(tmp_path / "run", ["train", *overrides(TASK, *breaks)])
    assert left.code == 1
    assert len(left.said) == 1, left.log[-2000:]
    assert "step 5: the sum of losses is inf" in left.said[0]
    assert "after 2 steps were left out (non_finite.limit=2)" in left.said[0]
    assert "Traceback" not in left.log


def test_without_a_broken_step_the_choice_changes_no_bit(composed: Callable[..., Any], tmp_path: Path) -> None:
    losses = []
    for choice in ("stop", "skip"):
        folder = begin(tmp_path / choice, composed(TASK, *EXACT, BATCH[TASK], f"non_finite={choice}"))
        fit(folder)
        losses.append(series(read(folder / RECORD), "train/loss"))
    assert losses[0] == losses[1]
    assert len(losses[0][0]) == 17
