"""What is not finite stops a run with the step and its examples, is never kept, and can be looked at: `etude replay`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etude.errors import ConfigurationError
from etude.experiment.replay import replay
from etude.experiment.run import train
from etude.store.checkpoint import read, remove, snapshot, write
from etude.store.integrity import checkpoints
from etude.tasks.guard import Guard
from tests.runs.processes import run

Overrides = Callable[..., list[str]]
EXPLODING = ("optimizer.lr=1e20", "scheduler=constant", "log.every=50step", "budget=20step", "validate.every=100step")


def test_the_guard_finds_the_first_broken_step() -> None:
    guard, device = Guard(), torch.device("cpu")
    for step, loss in enumerate((1.0, 2.0, float("nan"), 4.0), start=1):
        guard.saw_loss(step, torch.tensor(loss))
        guard.saw_norm(step, torch.tensor(float("inf") if step == 4 else 1.0))
    broken = guard.broken(device)
    assert broken is not None
    assert (broken.step, broken.gradient_norm) == (3, 1.0)
    assert guard.broken(device) is None


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


def test_replay_names_the_module_that_is_broken(composed: Callable[..., object], tmp_path: Path) -> None:
    config = composed("classification", "budget=2step", "checkpoint.every=1step", "run.name=x")
    folder = train(config, [])  # type: ignore[arg-type]
    assert folder is not None
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
