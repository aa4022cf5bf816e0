"""Averages of checkpoints: which are tried, what they weigh, and which is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.checkpoints.checkpoint import read_weights, snapshot, write
from etude.checkpoints.integrity import CheckpointBrokenError, checkpoint_folder, newest_valid, read_manifest
from etude.checkpoints.retention import Retention, Saved, apply
from etude.config.schema import CheckpointAverages, Validation
from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.metrics.score import Score
from etude.training import checkpoint_averaging as averaging
from etude.training.checkpoint_averaging import Candidate, candidates, keep_best_average, mean_weights
from etude.training.ending import stopping


class Tied(nn.Module):
    """Two names for one weight, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.results: dict[str, Score] = {}
        self.bootstrap = 1000


def saved(folder: Path, step: int, value: float, score: float | None) -> None:
    model = Tied()
    nn.init.constant_(model.first.weight, value)
    model.steps += step
    content = {"state_dict": model.state_dict(), "global_step": step, "etude": {"score": score}}
    write(snapshot(content), checkpoint_folder(folder, step), {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints with weights 1, 2, 4 and 8, all but one of them validated; the score is the distance from 3."""
    folder = tmp_path / "checkpoints"
    for step, value, score in ((10, 1.0, 2.0), (20, 2.0, 1.0), (25, 16.0, None), (30, 4.0, 1.5), (40, 8.0, 5.0)):
        saved(folder, step, value, score)
        apply(Retention(2, 4, "min"), folder, step)
    return tmp_path


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Callable[[CheckpointAverages], Any]:
    def make(average: CheckpointAverages) -> Any:
        validation = Validation(Duration(1, "epoch"), "val/loss", "min")
        return SimpleNamespace(root=SimpleNamespace(average=average, validate=validation), task=Tied())

    def distance(run: Path, of: Any, split: str) -> None:
        assert split == "val"
        of.task.results = {"loss": Score(abs(float(of.task.first.weight.detach().mean()) - 3))}

    monkeypatch.setattr(averaging, "score", distance)
    return make


def test_an_average_that_is_better_is_kept_and_best(run: Path, experiment: Callable[..., Any]) -> None:
    (run / "facts.json").write_text("{}")
    of = experiment(CheckpointAverages(last=(2, 3), best=(2, 3)))
    found = keep_best_average(run, of, Retention(2, 4, "min"), 40, {"facts.json": run / "facts.json"})
    assert found == pytest.approx(
        {
            "step-00000020": 1.0,
            "step-00000040-mean-last-2": 3.0,
            "step-00000040-mean-last-3": abs(14 / 3 - 3),
            "step-00000040-mean-best-2": 0.0,
            "step-00000040-mean-best-3": abs(7 / 3 - 3),
        }
    )
    best = (run / "checkpoints" / "best").resolve()
    assert best.name == "step-00000040-mean-best-2"
    assert read_manifest(best).score == 0.0
    assert (best / "facts.json").read_text() == "{}"
    assert json.loads((best / "state.json").read_text())["etude"]["mean_of"] == [20, 30]
    weights = read_weights(best)
    assert weights["second.weight"] is weights["first.weight"]
    assert torch.equal(weights["first.weight"], torch.full((3, 3), 3.0))
    again = keep_best_average(run, of, Retention(2, 4, "min"), 40, {"facts.json": run / "facts.json"})
    assert again == found
    newest = newest_valid(run / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000040"


def test_one_that_is_no_better_is_not(run: Path, experiment: Callable[..., Any]) -> None:
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    found = keep_best_average(run, experiment(CheckpointAverages(last=(2, 9))), Retention(2, 4, "min"), 40, {})
    assert list(found) == ["step-00000020", "step-00000040-mean-last-2"]
    assert (run / "checkpoints" / "best").resolve().name == "step-00000020"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    assert keep_best_average(run, experiment(CheckpointAverages()), Retention(2, 4, "min"), 40, {}) == {}


def test_one_with_a_broken_checkpoint_is_passed_over(run: Path, experiment: Callable[..., Any]) -> None:
    (run / "checkpoints" / "step-00000030" / "model.safetensors").write_bytes(b"")
    found = keep_best_average(
        run, experiment(CheckpointAverages(last=(2,), best=(2, 3))), Retention(2, 4, "min"), 40, {}
    )
    assert list(found) == ["step-00000020"]


def test_the_mean_is_taken_in_double_precision(tmp_path: Path) -> None:
    """One and twice 2⁻²⁵, which single precision would lose."""
    for step, value in ((1, 1.0), (2, 2.0**-25), (3, 2.0**-25)):
        saved(tmp_path, step, value, None)
    weights = mean_weights([checkpoint_folder(tmp_path, step) for step in (1, 2, 3)])
    assert weights["first.weight"].dtype == torch.float32
    assert float(weights["first.weight"][0, 0]) == torch.tensor((1 + 2.0**-24) / 3, dtype=torch.float64).float().item()
    assert int(weights["steps"]) == 3
    (checkpoint_folder(tmp_path, 2) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointBrokenError):
        mean_weights([checkpoint_folder(tmp_path, step) for step in (1, 2)])


def test_too_few_checkpoints_are_said(caplog: pytest.LogCaptureFixture) -> None:
    known = [Saved(10, 3.0), Saved(20, None), Saved(30, 1.0), Saved(40, 2.0)]
    assert candidates(CheckpointAverages(last=(2, 4), best=(3,)), Retention(2, 3, "min"), known) == [
        Candidate("step-00000040-mean-last-2", (30, 40)),
        Candidate("step-00000040-mean-best-3", (10, 30, 40)),
    ]
    assert "average.last=4: not tried, there are 3 validated checkpoints" in caplog.text


def test_what_needs_validations_is_refused_without() -> None:
    root: Any = SimpleNamespace(stop=SimpleNamespace(patience=None), average=CheckpointAverages(last=(3,)))
    with pytest.raises(ConfigurationError, match=r"average.last needs validations.*write average.last=\[\]"):
        stopping(root, {"train"})
