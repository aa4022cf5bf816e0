"""Scores of a later evaluation in the trackers of a run: once, beside those of the training, in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from etude.commands.evaluate import evaluate
from etude.config.compose import compose
from etude.errors import ConfigurationError
from etude.runs.saved_run import SavedRun
from etude.training.loggers.tracked_scores import check_trackers
from etude.training.loggers.tracking import STEP
from tests.runs.doors import fit
from tests.runs.killing import begin


def w_and_b(run: SavedRun) -> list[dict[str, Any]]:
    """Return the rows of all of W&B's local files, with their numbers."""
    rows = []
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        answer = subprocess.run(words, capture_output=True, text=True, check=True)
        found = [json.loads(line) for line in answer.stdout.splitlines()]
        rows += [record["history"]["item"] for record in found if record["type"] == "history"]
    return rows


@pytest.mark.slow
def test_scores_join_the_run_of_each_tracker(tmp_path: Path, overrides: Callable[..., list[str]]) -> None:
    words = overrides("classification", "logger=[wandb,tensorboard,csv]", "logger.wandb.mode=offline", "budget=3step")
    run = SavedRun.open(begin(tmp_path / "run", compose(*words)))
    fit(run.path)
    before, table = w_and_b(run), run.path / "csv" / "metrics.csv"
    kept = table.read_bytes()
    evaluated = evaluate([run], split="train", track=True)["scores"]
    scores = {f"evaluations/{name}": value for name, value in evaluated.items()}
    step = run.conclusion.step
    assert set(scores) >= {"evaluations/train/accuracy", "evaluations/train/loss"}
    new = w_and_b(run)[len(before) :]
    assert {name: row[name] for row in new for name in row if name.startswith("evaluations/")} == scores
    assert {row[STEP] for row in new} == {step}
    assert [row["_step"] for row in before + new] == list(range(len(before) + len(new)))
    shown = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for name, value in scores.items():
        assert [(one.step, one.value) for one in shown.Scalars(name)] == [(step, pytest.approx(value))]
    assert table.read_bytes() == kept
    evaluate([run], split="train", track=True, changes={"limit.train": 20})
    assert "evaluations/train-limit.train=20/accuracy" in {name for row in w_and_b(run) for name in row}


def test_what_cannot_be_tracked_is_refused(tmp_path: Path, overrides: Callable[..., list[str]]) -> None:
    silent = SavedRun.open(begin(tmp_path / "silent", compose(*overrides("classification"))))
    with pytest.raises(
        ConfigurationError, match=r"silent has no tracker that takes scores, but logger=none; its evaluations/"
    ):
        check_trackers(silent)
    unfinished = SavedRun.open(
        begin(tmp_path / "unfinished", compose(*overrides("classification", "logger=tensorboard")))
    )
    with pytest.raises(ConfigurationError, match=r"unfinished is not finished; first: etude resume"):
        evaluate([unfinished], track=True)
    with pytest.raises(ConfigurationError, match=r"track=3 is neither true nor false"):
        evaluate([silent], track=3)
