"""`etude compare SWEEP`: trials over seeds with the best first, tests against it corrected together, and what is left out."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import etude
from etude.api import Sweep
from etude.cli.main import main
from etude.cli.run_commands import call
from etude.commands.compare_sweep import compare_sweep
from etude.errors import ConfigurationError
from etude.metrics.resampling import holm, paired_p_value, pooled_p_value
from etude.report import significance
from etude.runs.folder import CONFIGURATION, FINISHED
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from tests.sweeps.test_saved_sweep import begun
from tests.sweeps.written_sweeps import LABELS, evaluate_members, written_sweep

WORDS = ("optimizer.lr=1e-5,1e-4,1e-3,4e-3", "sweep.seeds=[1,2]", "sweep.name=night")


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "pooled_p_value", partial(pooled_p_value, trials=500))
    monkeypatch.setattr(significance, "paired_p_value", partial(paired_p_value, trials=500))


def wrong(member: SavedMember) -> Sequence[int]:
    """The labels that a member gets wrong: the more, the further its learning rate is from 1e-3; each seed others."""
    trial, seed = member.document.trial, int(member.document.config["seed"])
    return [(place + seed) % len(LABELS) for place in range((9, 4, 1, 2)[trial])]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> SavedSweep:
    """Four trials of two seeds, the third best."""
    found = written_sweep(tmp_path_factory.mktemp("original") / "outputs", *WORDS)
    evaluate_members(found, wrong)
    return found


@pytest.fixture
def sweep(original: SavedSweep, tmp_path: Path) -> SavedSweep:
    """A copy of it, under `outputs`."""
    folder = tmp_path / "outputs" / "classification" / "demo" / "night"
    return SavedSweep.open(shutil.copytree(original.path, folder))


def compared(sweep: SavedSweep, **named: Any) -> dict[str, Any]:
    found = compare_sweep(sweep, format="json", **named)
    assert isinstance(found, dict)
    return found


def test_trials_are_rows_with_means_over_seeds_and_the_best_first(sweep: SavedSweep) -> None:
    found = compared(sweep)
    assert [trial["trial"] for trial in found["trials"]] == [2, 3, 1, 0] and found["best"] == 2
    best = found["trials"][0]
    assert best["configuration"] == {"optimizer.lr": 1e-3} and found["parameters"] == ["optimizer.lr"]
    assert best["validation"]["values"] == pytest.approx([0.251, 0.252])
    assert best["scores"]["test/accuracy"]["mean"] == 0.9 and best["seeds"] == [1, 2]
    assert [trial["scores"]["test/accuracy"]["mean"] for trial in found["trials"]] == pytest.approx(
        [0.9, 0.8, 0.6, 0.1]
    )
    assert found["signatures"] == {"test/accuracy": "nrefs:1|classes:2"}
    assert found["importances"] == {"optimizer.lr": 1.0}
    assert (found["left_out"], found["notes"], found["split"]) == ([], [], "test")
    json.dumps(found, allow_nan=False)


def test_each_other_trial_is_tested_and_all_tests_are_corrected_together(sweep: SavedSweep) -> None:
    """The metric of validations is a loss, which no rows give; accuracy is tested in its place."""
    trials = compared(sweep)["trials"]
    assert trials[0]["against_best"] == {}
    tests = [trial["against_best"] for trial in trials[1:]]
    assert [test["difference"]["accuracy"] for test in tests] == pytest.approx([-0.1, -0.3, -0.8])
    assert [test["holm"]["accuracy"] for test in tests] == holm([test["p"]["accuracy"] for test in tests])
    assert tests[2]["holm"]["accuracy"] < 0.05 < tests[0]["holm"]["accuracy"]


def test_what_has_not_ended_is_counted_and_a_failed_trial_is_a_row(tmp_path: Path) -> None:
    sweep = written_sweep(tmp_path, *WORDS, fails=lambda job: 71 * (job.number == 7))
    (sweep.path / "000" / FINISHED).unlink()
    (sweep.path / "001" / FINISHED).unlink()
    (sweep.path / "003" / FINISHED).unlink()
    evaluate_members(SavedSweep.open(sweep.path))
    found = compared(sweep)
    assert found["left_out"] == [str(sweep.path / name) for name in ("000", "001", "003")]
    states = {trial["trial"]: (trial["state"], trial["seeds"]) for trial in found["trials"]}
    assert states == {2: ("finished", [1, 2]), 3: ("failed", [1]), 1: ("unfinished", [1])}
    assert [trial["trial"] for trial in found["trials"]] == [2, 3, 1]  # fewer seeds come after
    assert all(not trial["against_best"] for trial in found["trials"])  # only finished trials are tested
    table = compare_sweep(sweep)
    assert "3 members are not finished, and left out" in str(table)
    assert "trial 3 failed: it was made to fail" in str(table)


def test_a_sweep_that_runs_is_left_as_it_is(sweep: SavedSweep) -> None:
    journal = sweep.path / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-3])  # another process is writing a line
    before = {path: path.read_bytes() for path in sweep.path.rglob("*") if path.is_file()}
    compared(sweep)
    assert {path: path.read_bytes() for path in sweep.path.rglob("*") if path.is_file()} == before


def test_trials_of_other_data_or_without_an_evaluation_are_said_and_not_tested(
    sweep: SavedSweep,
) -> None:
    evaluation = sweep.path / "000" / "evaluations" / "test.jsonl"
    evaluation.write_text(evaluation.read_text().replace('"label": 0', '"label": 1'))
    found = compared(sweep)
    assert found["notes"][0].startswith("scores are not compared: the test data of")
    assert all(not trial["scores"] and not trial["against_best"] for trial in found["trials"])
    for folder in sweep.folders:
        shutil.rmtree(folder / "evaluations")
    found = compared(sweep)
    assert found["notes"] == ["without an evaluation of val: trial 2, 3, 1, 0"]
    assert [trial["scores"] for trial in found["trials"]] == [{}] * 4


def test_without_common_seeds_nothing_is_tested(tmp_path: Path) -> None:
    sweep = written_sweep(tmp_path, "optimizer.lr=1e-4,1e-3", "sweep.seeds=[1,2]")
    evaluate_members(sweep)
    text = (sweep.path / "000" / CONFIGURATION).read_text()
    (sweep.path / "000" / CONFIGURATION).write_text(text.replace("seed: 1\n", "seed: 2\n", 1))
    assert compared(sweep)["notes"] == [
        "trial 0 is not tested against trial 1: trial 0 has several runs of one seed; name one of them"
    ]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"format": "html"}, "does not know format=html"),
        ({"split": "train"}, "no member has an evaluation of train; make it: etude evaluate"),
        ({"metric": "blue"}, "metric=blue is not a score of"),
        ({"save": "best.yaml"}, "in no folder named experiment"),
    ],
)
def test_what_cannot_be_done_is_one_line(sweep: SavedSweep, named: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        compare_sweep(sweep, **named)
    assert "\n" not in str(caught.value)


def test_a_sweep_of_which_nothing_has_ended_is_one_line(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "s")
    with pytest.raises(ConfigurationError, match=r"no member of .* is finished; first: etude sweep resume"):
        compare_sweep(sweep)


# On the command line and in Python


@pytest.mark.parametrize("word", ["night", "classification/demo/night", "last", "outputs/classification/demo/night"])
def test_a_sweep_is_compared_by_any_of_its_names(
    sweep: SavedSweep, tmp_path: Path, word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", word, "format=csv"]) == 0
    out, log = capfd.readouterr()
    assert out.splitlines()[0].startswith("trial,stage,state,optimizer.lr,seeds,val/loss,val/loss.sd,test/loss")
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == ["2", "3", "1", "0"]
    assert "Trials" in log and "Holm" in log


@pytest.mark.parametrize(
    ("form", "mark"), [("markdown", "| 2 | 0.001 | 1, 2 | 0.2515 ± 0.0007 |"), ("latex", r"2 & 0.001 & 1, 2 &")]
)
def test_tables_for_papers(sweep: SavedSweep, form: str, mark: str) -> None:
    assert mark in str(compare_sweep(sweep, format=form))


def test_a_run_in_a_sweep_and_a_folder_with_sweeps_are_still_runs(
    sweep: SavedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    members = [str(path) for path in sweep.folders[:2]]
    assert main(["compare", *members, "format=json"]) == 0
    assert main(["compare", "classification/demo", "format=json"]) == 0
    assert main(["compare", members[0]]) == 78  # one run
    assert main(["compare", *members, "save=conf/experiment/x.yaml"]) == 78
    assert not Path("conf").exists()


def test_the_best_is_saved_and_said(sweep: SavedSweep, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mine" / "experiment" / "best.yaml"
    with caplog.at_level(logging.INFO):
        found = compared(sweep, save=str(path))
    assert found["saved"] == str(path) and path.exists()
    assert f"wrote {path}; etude train --config-dir {tmp_path / 'mine'} experiment=best" in caplog.text


def test_the_python_door_takes_a_sweep(sweep: SavedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = compared(sweep)
    assert etude.compare(sweep) == etude.compare(sweep.path) == etude.compare("night") == found
    assert [group["name"] for group in etude.compare(*sweep.folders[:2])["groups"]] == ["000"]
    assert Sweep.open(sweep.path).report() == sweep.path / "report.html"
    with pytest.raises(ConfigurationError, match="no sweep 'nihgt'"):
        etude.compare("nihgt")
    with pytest.raises(ConfigurationError, match="finished runs that are given: 1"):
        etude.compare(sweep.folders[0])


def test_the_report_of_a_sweep_is_written_by_its_name(
    sweep: SavedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "night"]) == 0
    assert capfd.readouterr().out == f"{sweep.path}/report.html\n"
    assert call("report", [sweep.path], {}) == sweep.path / "report.html"
    assert main(["report", "classification/demo/night/000"]) == 0
    assert capfd.readouterr().out == f"{sweep.path}/000/report.html\n"
    (tmp_path / "outputs" / "last").symlink_to(sweep.path / "001")
    assert main(["report", "last"]) == 0  # a run is something to report
    assert capfd.readouterr().out == f"{sweep.path}/001/report.html\n"
    assert main(["report", "nigth"]) == 78
