"""What is not finite stops a run with the step and its examples, is never kept, and can be looked at: `etude replay`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.checkpoints.checkpoint import read, remove, snapshot, write
from etude.checkpoints.integrity import checkpoints
from etude.commands.replay import experiment_in_one_process, train_forward
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.runs.record import RECORD
from etude.runs.record import read as read_record
from etude.runs.saved_run import SavedRun
from tests.runs.conftest import TASKS
from tests.runs.doors import fit, replay, train
from tests.runs.killing import BATCH, EXACT, begin
from tests.runs.processes import run

Overrides = Callable[..., list[str]]
SLOW = ("causal_lm", "masked_lm", "token_classification")
EXPLODING = ("optimizer.lr=1e20", "scheduler=constant", "log.every=50step", "budget=20step", "validate.every=100step")


@pytest.mark.parametrize("every", ["checkpoint.every=2step", "checkpoint.every=100step"])
def test_an_exploding_rate_stops_with_the_step_and_keeps_nothing_broken(
    overrides: Overrides, tmp_path: Path, every: str
) -> None:
    words = [word for word in overrides("classification", *EXPLODING, every) if not word.startswith("scheduler.")]
    left = run(tmp_path / "run", ["train", *words])
    assert left.code == 1
    assert len(left.said) == 1
    assert "Traceback" not in left.log
    found = re.search(
        r"etude: error: step (\d+): .*examples: [\d, ]+ and \d+ more; .*etude replay (\S+) step=(\d+);", left.log
    )
    assert found is not None, left.log[-2000:]
    assert found[1] == found[3]
    for folder in checkpoints(Path(found[2]) / "checkpoints").values():
        assert int(folder.name[5:]) < int(found[1])
    again = run(tmp_path / "again", ["replay", found[2], f"step={found[3]}"])
    assert again.code == 0, again.log[-2000:]
    seen = json.loads(again.out)
    assert seen["step"] == int(found[1])
    assert len(seen["examples"]) == 13
    assert {"id", "loss", "text"} <= set(seen["examples"][0])


@pytest.mark.parametrize("task", [pytest.param(task, marks=pytest.mark.slow if task in SLOW else ()) for task in TASKS])
def test_replay_has_the_weights_of_the_step_before(composed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    """Trained forward from the last checkpoint that is left, or from the start: bit for bit, and outside of the folder."""
    settings = (*EXACT, BATCH[task], "budget=9step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    folder = begin(tmp_path / "run", composed(task, *settings))
    fit(folder)
    expected = {step: training_weights(folder, step) for step in (2, 7)}
    for step, path in checkpoints(folder / "checkpoints").items():
        if step != 4:
            remove(path)
    before = files(folder)
    for step, weights in expected.items():
        run = SavedRun.open(folder)
        experiment, ranks = experiment_in_one_process(run, step)
        _, reached = train_forward(run, experiment, step, ranks, tmp_path / "elsewhere")
        assert reached == step
        found = dict(experiment.task.named_parameters())
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    seen = replay(folder, {"step": 8})
    recorded = next(event.values for event in read_record(folder / RECORD) if event.step == 8)
    assert seen["weights_of_step"] == 7
    assert seen["loss"] == pytest.approx(recorded["train/loss"], rel=1e-6)
    assert seen["gradient_norm"] == pytest.approx(recorded["train/gradient_norm"], rel=1e-5)
    assert files(folder) == before


def training_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights that training went on with; the checkpoint's own are their averages."""
    content = read(folder / "checkpoints" / f"step-{step:08d}", torch.device("cpu"))
    (averages,) = [state for state in content["callbacks"].values() if "weights" in state]
    weights: dict[str, torch.Tensor] = averages["weights"]
    return weights


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {str(path): (state.st_mtime_ns, state.st_size) for path, state in found.items()}


@pytest.mark.slow
def test_replay_does_the_work_of_two_ranks(overrides: Overrides, tmp_path: Path) -> None:
    """Their slices and dropout, one after the other."""
    words = overrides(
        "classification", "trainer.devices=2", "trainer.micro_batches=2", "run.name=x", "model.dropout=0.3"
    )
    left = run(tmp_path / "run", ["train", *words])
    assert left.code == 0, left.log[-2000:]
    folder = Path(left.out.strip())
    seen = replay(folder, {"step": 7})
    recorded = next(event.values for event in read_record(folder / RECORD) if event.step == 7)
    assert seen["loss"] == pytest.approx(recorded["train/loss"], rel=1e-5)
    assert seen["gradient_norm"] == pytest.approx(recorded["train/gradient_norm"], rel=1e-4)


def test_replay_names_the_module_that_is_broken(composed: Callable[..., Config], tmp_path: Path) -> None:
    config = composed("classification", "budget=2step", "checkpoint.every=1step", "run.name=x")
    folder = train(config)
    whole = replay(folder, {"step": 2})
    assert (whole["weights_of_step"], whole["first_non_finite"], whole["backward"]) == (1, None, None)
    assert 0.3 < whole["loss"] < 1.5
    losses = [row["loss"] for row in whole["examples"]]
    assert losses == sorted(losses, reverse=True)
    break_one_weight(folder)
    broken = replay(folder, {"step": 3})
    assert broken["weights_of_step"] == 2
    assert broken["loss"] == "nan"
    assert "feed_forward" in broken["first_non_finite"]
    with pytest.raises(ConfigurationError, match="step=None"):
        replay(folder, {})


def break_one_weight(folder: Path) -> None:
    """Write the checkpoint of step 2 anew, with one weight of a feed-forward layer infinite."""
    path = folder / "checkpoints" / "step-00000002"
    content = read(path, torch.device("cpu"))
    name = next(name for name in content["state_dict"] if "feed_forward" in name and name.endswith("weight"))
    content["state_dict"][name].view(-1)[0] = float("inf")
    remove(path)
    write(snapshot(content), path, {})
