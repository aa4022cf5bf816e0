"""Artifacts of a run in W&B: what it read and what it has made, in W&B's local file, whose digests draw the lineage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import compose
from etude.errors import ConfigurationError
from etude.runs.saved_run import SavedRun
from etude.training.loggers.mirror import PROGRESS
from etude.training.loggers.tracking import STEP, Wandb
from etude.training.loggers.wandb_artifacts import KINDS, RunArtifacts
from tests.runs.conftest import SMALL
from tests.runs.doors import fit
from tests.runs.killing import begin

ALL = f"logger.wandb.artifacts=[{','.join(KINDS)}]"
WORDS = [
    *(word for word in SMALL if word != "logger=none"),
    "logger=wandb",
    "logger.wandb.mode=offline",
    "experiment=classification/demo",
    "model.layers=1",
    "batch.examples=13",
    "batch.tokens=null",
    "limit.train=53",
    "limit.val=11",
    "limit.test=7",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedRun, SavedRun]:
    """A run, and another one that began with it."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_DATA_DIR", str(folder / "staged"))
    paths = [f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"]
    first = begin(folder / "first", compose(*WORDS, ALL, *paths, "budget=2step", "logger.wandb.artifact_days=30"))
    fit(first)
    words = ["budget=1step", f"start={folder}/first"]
    second = begin(folder / "second", compose(*WORDS, "logger.wandb.artifacts=[data,tokenizer,best]", *paths, *words))
    fit(second)
    patch.undo()
    return SavedRun.open(first), SavedRun.open(second)


def records(run: SavedRun, kind: str) -> list[dict[str, Any]]:
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    return [record[kind] for record in found if record["type"] == kind]


def artifacts(run: SavedRun) -> list[dict[str, Any]]:
    """Return the artifacts, without W&B's own of tables."""
    return [one for one in records(run, "artifact") if not one["name"].startswith("run-")]


@pytest.mark.slow
def test_a_run_declares_what_it_reads_and_logs_what_it_has_made(runs: tuple[SavedRun, SavedRun]) -> None:
    run = runs[0]
    found = artifacts(run)
    assert [(one["type"], one.get("use_after_commit", False)) for one in found] == [
        ("dataset", True),
        ("tokenizer", False),
        ("model", False),
        ("predictions", False),
    ]
    data, tokenizer, model, predictions = found
    assert data["name"] == f"data-{run.data.fingerprint[:12]}"
    assert [entry["path"] for entry in data["manifest"]["contents"]] == ["data.json"]  # no texts
    assert json.loads(data["metadata"])["rows"] == {"train": 53, "val": 11, "test": 7}
    assert {entry["path"] for entry in tokenizer["manifest"]["contents"]} >= {"tokenizer.json"}
    assert set(model["aliases"]) == {"best", "last", "latest", "step-00000002"}
    assert "model.safetensors" in {entry["path"] for entry in model["manifest"]["contents"]}
    assert all(Path(entry["local_path"]).is_file() for entry in model["manifest"]["contents"])
    assert "test.jsonl" in {entry["path"] for entry in predictions["manifest"]["contents"]}
    assert int(model["ttl_duration_seconds"]) == int(predictions["ttl_duration_seconds"]) == 30 * 86400
    assert "ttl_duration_seconds" not in data


@pytest.mark.slow
def test_a_run_that_begins_with_another_has_its_artifacts_as_inputs(runs: tuple[SavedRun, SavedRun]) -> None:
    first, second = map(artifacts, runs)
    used = {one["name"]: one["digest"] for one in second if one.get("use_after_commit")}
    assert used == {one["name"]: one["digest"] for one in first if one["type"] != "predictions"}
    (made,) = [one for one in second if not one.get("use_after_commit")]
    assert (made["type"], made["name"]) == ("model", f"model-{runs[1].identity()}")


@pytest.mark.slow
def test_every_row_has_all_axes_and_they_have_no_charts_of_their_own(runs: tuple[SavedRun, SavedRun]) -> None:
    rows = [record["item"] for record in records(runs[0], "history")]
    assert len(rows) > 4
    assert all({STEP, *PROGRESS} <= row.keys() for row in rows)
    defined = {record["name"]: record for record in records(runs[0], "metric") if "name" in record}
    for axis in PROGRESS:
        assert (defined[axis]["options"]["hidden"], defined[axis]["step_metric"]) == (True, STEP)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"artifacts": ["data", "weights"]},
            r"logger\.wandb\.artifacts=weights is no artifact of a run; write \[data,",
        ),
        ({"artifact_days": 0}, r"logger\.wandb\.artifact_days=0 keeps nothing; write 1 or more, or null"),
    ],
)
def test_what_is_no_artifact_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Wandb(**arguments).check()


@pytest.mark.slow
def test_a_run_that_lost_its_start_goes_on(runs: tuple[SavedRun, SavedRun], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run = SavedRun(runs[1].path, runs[1].config.updated({"start": str(runs[1].path / "gone")}))
    RunArtifacts(run, ["best"]).declare_inputs(object())  # which could not be told anything
    assert f"W&B is not told of a run that {run.path} begins with or learns from: no run" in caplog.text


class Noting:
    """In the place of a run of W&B's: it notes which artifacts are declared."""

    def __init__(self) -> None:
        self.names = list[str]()

    def _log_artifact(self, artifact: Any, **_: Any) -> None:
        self.names.append(artifact.name)


@pytest.mark.slow
def test_a_teacher_is_an_input(runs: tuple[SavedRun, SavedRun], tmp_path: Path) -> None:
    words = ["distillation=from_run", f"distillation.teacher={runs[0].path}", f"paths.outputs={tmp_path}"]
    student, noting = SavedRun(runs[0].path, compose(*WORDS, *words)), Noting()
    RunArtifacts(student, ["best"]).declare_inputs(noting)
    assert noting.names == [f"model-{runs[0].identity()}"]
