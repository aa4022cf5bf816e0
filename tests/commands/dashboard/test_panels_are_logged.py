"""No panel of a dashboard is empty: every value, table and page that it names is logged by a tiny run of its task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.commands.dashboard.description import FOLDER, Dashboard
from etude.config.compose import compose
from etude.config.schema import Config
from etude.runs.record import RECORD, read
from tests.runs.conftest import TASKS
from tests.runs.doors import fit
from tests.runs.killing import begin
from tests.runs.test_kinds_of_labels import composed as of_labels
from tests.runs.test_kinds_of_labels import folder as folder
from tests.runs.test_question_answering import file as file
from tests.runs.test_question_answering import words as of_questions

SHOWN = (
    *("callbacks=default", "callbacks.samples.count=2", "budget=4step", "validate.every=2step", "log.norms=true"),
    *("non_finite=skip", "logger=wandb", "logger.wandb.mode=offline", "logger.wandb.artifacts=[data,tokenizer]"),
)


def logged(run: Path, config: Config) -> set[str]:
    """Return the names in the record of a run and in W&B's file of it."""
    fit(begin(run, config))
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in answer.stdout.splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return {name for event in read(run / RECORD) for name in event.values} | {
        name.partition(".")[0] for row in rows for name in row
    }


def assert_no_panel_is_empty(run: Path, config: Config) -> None:
    names = logged(run, config)
    dashboard = Dashboard.of(config, "all of it")
    assert {section.name for section in dashboard.sections} >= {"Health", "Quality", "Cost", "Samples"}
    assert set(dashboard.names) - names == set()
    for section in dashboard.sections:
        for panel in section.panels:
            assert panel.names or panel.pattern, panel
            assert not panel.pattern or any(re.fullmatch(panel.pattern, name) for name in names), panel


@pytest.mark.parametrize(
    "task", [task if task == "classification" else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_of_a_task(
    task: str, overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    assert_no_panel_is_empty(tmp_path / "run", compose(*overrides(task, *SHOWN)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["several", "numbers"])
def test_of_a_kind_of_labels(kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    assert_no_panel_is_empty(tmp_path / "run", of_labels(folder, kind, *SHOWN))


@pytest.mark.slow
def test_of_question_answering(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    assert_no_panel_is_empty(tmp_path / "run", compose(*of_questions(file, tmp_path, *SHOWN, "validate.metric=val/f1")))


def test_every_task_has_a_file() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    assert files == {*TASKS, "multilabel", "regression", "question_answering", "default"}
