"""Checkpoint averaging: candidates, their weights, and the average that is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from etude.checkpoints.checkpoint import read_weights, snapshot, write
from etude.checkpoints.integrity import CheckpointBrokenError, checkpoint_folder, newest_valid, read_manifest
from etude.checkpoints.retention import Retention, Saved, apply
from etude.config.schema import CheckpointAverages, Validation
from etude.duration import Duration
from etude.metrics.score import Score
from etude.runs.saved_run import SavedRun
from etude.training import checkpoint_averaging as averaging
from etude.training.checkpoint_averaging import Candidate, candidates, keep_best_average, mean_weights


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
def run(tmp_path: Path) -> SavedRun:
    """Checkpoints with weights 1, 2, 4 and 8, all but one of them validated; the score is the distance from 3."""
    folder = tmp_path / "checkpoints"
    for step, value, score in ((10, 1.0, 2.0), (20, 2.0, 1.0), (25, 16.0, None), (30, 4.0, 1.5), (40, 8.0, 5.0)):
        saved(folder, step, value, score)
        apply(Retention(2, 4, "min"), folder, step)
    return SavedRun(tmp_path, cast(Any, None))


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Callable[[CheckpointAverages], Any]:
    def make(average: CheckpointAverages) -> Any:
        validation = Validation(Duration(1, "epoch"), "val/loss", "min")
        return SimpleNamespace(config=SimpleNamespace(average=average, validate=validation), task=Tied())

    def distance(run: Path, of: Any, split: str) -> None:
        assert split == "val"
        of.task.results = {"loss": Score(abs(float(of.task.first.weight.detach().mean()) - 3))}

    monkeypatch.setattr(averaging, "score", distance)
    return make


def test_a_better_average_is_kept_and_becomes_best(run: SavedRun, experiment: Callable[..., Any]) -> None:
    (run.path / "facts.json").write_text("{}")
    of = experiment(CheckpointAverages(last=(2, 3), best=(2, 3)))
    scores = keep_best_average(run, of, Retention(2, 4, "min"), 40, {"facts.json": run.path / "facts.json"})
    assert scores == pytest.approx(
        {
            "step-00000020": 1.0,
            "step-00000040-mean-last-2": 3.0,
            "step-00000040-mean-last-3": abs(14 / 3 - 3),
            "step-00000040-mean-best-2": 0.0,
            "step-00000040-mean-best-3": abs(7 / 3 - 3),
        }
    )
    best = (run.path / "checkpoints" / "best").resolve()
    assert best.name == "step-00000040-mean-best-2"
    assert read_manifest(best).score == 0.0
    assert (best / "facts.json").read_text() == "{}"
    assert json.loads((best / "state.json").read_text())["etude"]["mean_of"] == [20, 30]
    weights = read_weights(best)
    assert weights["second.weight"] is weights["first.weight"]
    assert torch.equal(weights["first.weight"], torch.full((3, 3), 3.0))
    again = keep_best_average(run, of, Retention(2, 4, "min"), 40, {"facts.json": run.path / "facts.json"})
    assert again == scores
    newest = newest_valid(run.path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000040"


def test_an_average_that_is_not_better_is_discarded(run: SavedRun, experiment: Callable[..., Any]) -> None:
    before = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    scores = keep_best_average(run, experiment(CheckpointAverages(last=(2, 9))), Retention(2, 4, "min"), 40, {})
    assert list(scores) == ["step-00000020", "step-00000040-mean-last-2"]
    assert (run.path / "checkpoints" / "best").resolve().name == "step-00000020"
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == before
    assert keep_best_average(run, experiment(CheckpointAverages()), Retention(2, 4, "min"), 40, {}) == {}


def test_an_average_with_a_broken_checkpoint_is_skipped(run: SavedRun, experiment: Callable[..., Any]) -> None:
    (run.path / "checkpoints" / "step-00000030" / "model.safetensors").write_bytes(b"")
    scores = keep_best_average(
        run, experiment(CheckpointAverages(last=(2,), best=(2, 3))), Retention(2, 4, "min"), 40, {}
    )
    assert list(scores) == ["step-00000020"]


def test_the_mean_is_computed_in_double_precision(tmp_path: Path) -> None:
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


def test_a_size_beyond_the_number_of_checkpoints_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = [Saved(10, 3.0), Saved(20, None), Saved(30, 1.0), Saved(40, 2.0)]
    assert candidates(CheckpointAverages(last=(2, 4), best=(3,)), Retention(2, 3, "min"), checkpoints) == [
        Candidate("step-00000040-mean-last-2", (30, 40)),
        Candidate("step-00000040-mean-best-3", (10, 30, 40)),
    ]
    assert "average.last=4: not tried, there are 3 validated checkpoints" in caplog.text
