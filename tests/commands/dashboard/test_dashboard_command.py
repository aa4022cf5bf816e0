"""`etude dashboard` without a key: what it writes of an experiment, of a run and of a sweep, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.cli.command_table import COMMANDS
from etude.cli.dashboard_command import run_dashboard
from etude.cli.main import main
from etude.commands.dashboard import dashboards
from etude.commands.dashboard.dashboards import FOLDER, dashboard_of_experiment
from etude.commands.dashboard.description import Dashboard, Panel
from etude.commands.dashboard.views import Shown, report, require_packages
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.runs.saved_run import SavedRun
from tests.runs.killing import begin
from tests.sweeps.written_sweeps import written_sweep

SHOWN = Shown("team", "study", "Group", "translation/demo", "val/bleu")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("experiment=translation/demo", "logger.wandb.project=study")


def strings(content: Any) -> Iterator[str]:
    """Yield all texts in a JSON value."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for one in content.values() if isinstance(content, dict) else content:
            yield from strings(one)


def written(folder: Path) -> dict[str, Any]:
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("workspace", "report")}


def test_of_an_experiment(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "experiment=translation/demo", "logger.wandb.project=study"]) == 0
    out, said = capfd.readouterr()
    assert out == "dashboards/translation/demo\n"
    assert said.endswith("to push them, type the same after: wandb login\n")
    views = written(tmp_path / out.strip())
    for view in views.values():
        names = set(strings(view))
        assert {"train/loss", "val/bleu", "val/chrf", "speed/utilisation", "trainer/global_step", "tokens"} <= names
        assert not {"train/skipped_steps", "train/gradient_norm/.*", "val/accuracy"} & names
        assert "translation/demo" in names
    assert (views["report"]["project"], views["report"]["runs"]) == ("study", {"Group": "translation/demo"})


def test_of_a_run(tmp_path: Path, composed: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    run = begin(tmp_path / "outputs" / "one", composed("classification", "logger=wandb"))
    (run / "id").write_text("c0ffee11\n")
    assert main(["dashboard", str(run), "logger.wandb.project=other"]) == 0
    assert capfd.readouterr().out == f"{run}/dashboards\n"
    views = written(run / "dashboards")
    assert (views["report"]["project"], views["report"]["runs"]) == ("other", {"ID": "c0ffee11"})
    assert {"test/confusion", "val/accuracy"} <= set(strings(views["workspace"]))


def test_of_a_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = written_sweep(tmp_path / "outputs", "optimizer.lr=1e-3,1e-2", "seed=1,2", "sweep.name=rates")
    words = ("experiment=classification/demo", "run.name=rates/000", "validate={metric:val/loss,mode:min}")
    SavedRun.begin(sweep.folders[0], compose(*words))  # members that only pretend have no configuration
    assert main(["dashboard", str(sweep.path)]) == 0
    assert capfd.readouterr().out == f"{sweep.path}/dashboards\n"
    report = written(sweep.path / "dashboards")["report"]
    assert report["runs"] == {"Group": "classification/demo/rates"}
    first = report["sections"][0]
    assert first["heading"] == "Sweep"
    assert [panel["viewType"] for panel in first["panels"]] == ["Parallel Coordinates Plot", "Parameter Importance"]
    text = json.dumps(first)
    assert "optimizer.value.lr" in text and "val/loss" in text  # as W&B names it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dashboard"], "etude dashboard needs a RUN"),
        (["dashboard", "experiment=translation/none"], "translation/none"),
        (["dashboard", "nothing"], "no run 'nothing'"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 78
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1


def test_words_without_a_run_are_an_experiment(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_dashboard(COMMANDS["dashboard"], ["experiment=classification/demo", "optimizer.lr=1e-3"]) == 0
    assert capfd.readouterr().out == f"{FOLDER}/classification/demo\n"


def test_with_a_key_both_are_pushed_and_their_addresses_returned(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server alone is pretended."""
    saved: list[tuple[str, str]] = []

    def save(view: Any) -> Any:
        name = type(view).__name__
        saved.append((name, view.project))
        return SimpleNamespace(url=f"at/{name}")

    monkeypatch.setattr(dashboards, "has_key", lambda: True)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", save)
    monkeypatch.setattr("wandb_workspaces.reports.v2.Report.save", save)
    assert dashboard_of_experiment(config) == {"workspace": "at/Workspace", "report": "at/Report"}
    assert saved == [("Workspace", "study"), ("Report", "study")]
    assert not (tmp_path / FOLDER).exists()


def test_the_report_is_bound_to_the_runs(config: Config) -> None:
    made = report(Dashboard.of(config, "x"), SHOWN)
    grids = [block for block in made.blocks if type(block).__name__ == "PanelGrid"]
    assert len(grids) == len(Dashboard.of(config, "x").sections)
    for grid in grids:
        (runs,) = grid.runsets
        assert (runs.entity, runs.project, runs.filters) == ("team", "study", "Metric('Group') == 'translation/demo'")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ConfigurationError, match=r"etude dashboard needs wandb_workspaces: pip install 'etude\[dash"):
        require_packages()


def test_help_names_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--help"]) == 0
    text = capfd.readouterr().out
    assert "RUN|SWEEP" in text and "experiment=translation/demo" in text and "logger.wandb.project" in text


def test_panels_that_need_something_are_there_with_it_alone(config: Config) -> None:
    plain, all_of_it = (
        set(Dashboard.of(one, "x").names)
        for one in (config, compose("experiment=translation/demo", "non_finite=skip", "callbacks=none"))
    )
    assert ("train/skipped_steps" in plain, "train/skipped_steps" in all_of_it) == (False, True)
    assert ("samples" in plain, "samples" in all_of_it) == (True, False)
    patterns = [
        [panel.pattern for section in Dashboard.of(one, "x").sections for panel in section.panels if panel.pattern]
        for one in (config, compose("experiment=translation/demo", "log.norms=true"))
    ]
    assert patterns[0] == [] and len(patterns[1]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sections: [{name: A, panels: [{title: B, line: [x]}]}]", "line"),
        ("sections: [health, nowhere]", "there is no dashboard file .*nowhere.yaml"),
        ("sections: [", "is no YAML"),
        ("sections: 3", "sections"),
    ],
)
def test_a_file_that_is_wrong_says_where(text: str, said: str, config: Config, tmp_path: Path) -> None:
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "health.yaml").write_text("{name: A, panels: []}")
    (tmp_path / "default.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        Dashboard.of(config, "x", tmp_path)


def test_a_panel_says_what_it_names() -> None:
    assert Panel("t", lines=["a", "b"]).names == ["a", "b"]
    assert Panel("t", table="samples").names == ["samples"]
    assert Panel("t", pattern="a/.*").names == []
