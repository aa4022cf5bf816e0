"""A sweep begins, goes on, refuses what is another, and says what has become of it; its members are pretended."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import msgspec
import pytest

import etude
from etude.cli.main import main
from etude.commands import sweep as command
from etude.commands.sweep import MembersFailedError, check_members, run_jobs, run_sweep, sweep_status
from etude.errors import ConfigurationError
from etude.runs.lock import RunLock
from etude.sweeps.saved_sweep import SavedSweep
from etude.sweeps.sweep_documents import read_sweep, write_document
from etude.sweeps.sweep_plan import read_plan
from tests.sweeps.pretended import PretendedLauncher

JUDGED = ("validate.metric=val/loss", "validate.mode=min", "logger=none")
GRID = ("optimizer.lr=1e-3,1e-2", "seed=1,2", "sweep.name=x")


@pytest.fixture(autouse=True)
def launchers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[PretendedLauncher]:
    """Every launcher that is opened; none starts a process."""
    opened: list[PretendedLauncher] = []

    def pretended(configuration: object) -> PretendedLauncher:
        opened.append(PretendedLauncher(fails=lambda job: failing.get(job.number, 0)))
        return opened[-1]

    failing.clear()
    monkeypatch.setattr(command, "open_launcher", pretended)
    monkeypatch.chdir(tmp_path)
    return opened


failing: dict[int, int] = {}
"""Exit codes of members by their number."""

FOLDER = Path("outputs") / "translation" / "demo" / "x"


def words(*more: str) -> list[str]:
    return [*JUDGED, *GRID, *more]


def test_the_folder_of_a_sweep_is_the_data_of_both_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", *words()]) == 0
    out, error = capfd.readouterr()
    assert out == f"{FOLDER}\n"
    assert re.search(r"etude: 003 finished  val/loss \S+  optimizer.lr=0.01 seed=2  \(4 of 4; best 000: 0.251\)", error)
    assert main(["sweep", *words()]) == 0
    out, error = capfd.readouterr()
    assert out == f"{FOLDER}\n"
    assert f"{FOLDER} is finished; nothing to do" in error


def test_a_range_test_that_has_nothing_to_propose_says_so_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Pretended members have no losses in training."""
    for _ in range(2):
        assert main(["sweep", *JUDGED, "search=lr_range", "sweep.name=x"]) == 65
        out, error = capfd.readouterr()
        assert out == ""
        assert error.splitlines()[-1] == (
            "etude: error: no learning rate is proposed: 0 steps with a finite loss are no curve; write a longer budget, or a "
            f"lower scheduler.low; plot: {FOLDER}/learning_rates.html"
        )
    assert (FOLDER / "learning_rates.html").exists()
    assert json.loads((FOLDER / "learning_rates.json").read_text())["trials"][0]["proposal"] is None


def test_the_same_words_make_the_same_name(capfd: pytest.CaptureFixture[str]) -> None:
    for machine in ("hydra.launcher.slots=2", "trainer.workers=1", "sweep.retries=0"):
        assert main(["train", "-m", *JUDGED, *GRID[:2], machine]) == 0
    folders = capfd.readouterr().out.split()
    assert len(folders) == 3
    assert len(set(folders)) == 1
    assert re.fullmatch(r"outputs/translation/demo/lr-seed-[0-9a-f]{8}", folders[0])


def test_a_folder_of_another_space_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words()]) == 0
    assert main(["sweep", *JUDGED, "optimizer.lr=1e-3,1e-1", "sweep.name=x"]) == 78
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"etude: error: {FOLDER} was begun from another space (stages.members.")
    assert error.endswith("give this one a name: sweep.name=NAME")


def test_a_sweep_that_another_process_runs_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    failing[0] = 78
    assert main(["sweep", *words()]) == 1
    with RunLock(FOLDER):
        (FOLDER / ".lock").write_text("1\n")  # a process that runs
        assert main(["sweep", *words()]) == 73
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.endswith(
        "is in use by process 1; wait until it has ended, or give this sweep a name of its own: sweep.name=NAME"
    )


def test_members_that_fail_are_listed_at_the_end_and_the_others_are_finished(
    capfd: pytest.CaptureFixture[str],
) -> None:
    failing[1] = 65
    assert main(["sweep", *words()]) == 1
    out, error = capfd.readouterr()
    assert out == ""
    assert error.splitlines()[-1] == (
        "etude: error: 1 of 4 members failed, the others are finished: member 001 (optimizer.lr=0.001 seed=2): "
        "it was made to fail"
    )
    failing.clear()
    assert main(["sweep", *words()]) == 0


class TestDrift:
    @pytest.fixture(autouse=True)
    def unfinished(self) -> None:
        failing[1] = 65
        with pytest.raises(MembersFailedError):
            run_sweep(read_plan(words()))
        failing.clear()

    def test_changed_code_is_refused_unless_that_is_allowed(self, caplog: pytest.LogCaptureFixture) -> None:
        document = read_sweep(FOLDER)
        other = msgspec.structs.replace(document.code, sources={"etude": "0" * 64})
        write_document(FOLDER, msgspec.structs.replace(document, code=other))
        with pytest.raises(
            ConfigurationError, match=r"has changed: sources.etude: '00000000000… -> .*sweep.drift=allow"
        ):
            run_sweep(read_plan(words()))
        run_sweep(read_plan(words("sweep.drift=allow")))
        assert "has changed: sources.etude" in caplog.text

    def test_a_changed_file_of_the_configuration_is_refused(self) -> None:
        path = FOLDER / "001" / "member.json"
        stored = json.loads(path.read_text())
        stored["config"]["model"]["width"] = 96
        path.write_text(json.dumps(stored))
        with pytest.raises(ConfigurationError, match=r"has changed: model.width: 96 -> 128; put it back"):
            run_sweep(read_plan(words()))

    def test_another_machine_is_no_drift(self) -> None:
        run_sweep(read_plan(words("trainer.workers=2", "paths.cache=elsewhere")))
        assert [member.state for member in SavedSweep.open(FOLDER).members] == ["finished"] * 4


def test_what_is_finished_may_drift() -> None:
    run_sweep(read_plan(words()))
    document = read_sweep(FOLDER)
    other = msgspec.structs.replace(document.code, sources={"etude": "0" * 64})
    write_document(FOLDER, msgspec.structs.replace(document, code=other))
    assert run_sweep(read_plan(words())).path == FOLDER


def test_every_value_of_a_search_is_checked_before_the_first_hour() -> None:
    with pytest.raises(ConfigurationError, match=r"model.heads = 5 does not divide model.width = 128"):
        run_sweep(read_plan([*JUDGED, "searcher=random", "optimizer.lr=interval(1e-4,1e-2)", "model.heads=4,2,5"]))
    assert not Path("outputs").exists()


@pytest.mark.parametrize("searcher", ["grid", "random"])
def test_members_of_one_name_are_refused_before_anything_is_written(searcher: str) -> None:
    lr = "1e-4,1e-2" if searcher == "grid" else "interval(1e-4,1e-2)"
    plan = read_plan([*JUDGED, f"searcher={searcher}", f"optimizer.lr={lr}", "run.name=one"])
    with pytest.raises(ConfigurationError, match=r"members 0 and 1 are both called one; leave run\.name out"):
        run_sweep(plan)
    assert not Path("outputs").exists()
    check_members(read_plan([*JUDGED, f"searcher={searcher}", f"optimizer.lr={lr}", "run.name=lr-${optimizer.lr}"]))


def test_a_search_over_members_that_are_judged_differently_is_refused() -> None:
    plan = read_plan(["searcher=random", "experiment=translation/demo,masked_lm/demo"])
    with pytest.raises(ConfigurationError, match=r"judged by different scores \(val/bleu, val/loss\)"):
        check_members(plan)


@pytest.mark.parametrize(
    "typed",
    [
        [
            "hydra/sweeper=optuna",
            "hydra.sweeper.n_trials=3",
            "hydra.sweeper.sampler.seed=7",
            "hydra.sweeper.study_name=o",
        ],
        ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.name=random", "sweep.name=o"],
    ],
)
def test_the_words_of_hydras_optuna_plugin_are_taken(typed: list[str]) -> None:
    swept = [
        "optimizer.lr=tag(log,interval(1e-5,1e-1))",
        "model.layers=range(1,3)",
        "scheduler=choice(cosine,constant)",
    ]
    if "sweep.name=o" in typed:
        swept = [*swept, "sweep.name=o"]
        typed = typed[:-1]
    assert main(["train", "-m", *JUDGED, "experiment=classification/demo", *typed, *swept]) == 0
    sweep = SavedSweep.open(Path("outputs") / "classification" / "demo" / "o")
    assert len(sweep.members) == 3
    for member in sweep.members:
        assignment = member.document.assignment
        assert 1e-5 <= float(assignment["optimizer.lr"] or 0) <= 1e-1
        assert assignment["model.layers"] in (1, 2)
        assert assignment["scheduler"] in ("cosine", "constant")


def test_an_interval_needs_a_searcher(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", *JUDGED, "optimizer.lr=interval(1e-5,1e-1)"]) == 78
    assert "optimizer.lr of the search space is a range, which has no end of values; write searcher=tpe" in (
        capfd.readouterr().err
    )


def test_jobs_of_another_sweeper_have_scores() -> None:
    jobs = [[*JUDGED, "optimizer.lr=1e-3"], [*JUDGED, "optimizer.lr=1e-2"]]
    scores = run_jobs(jobs, ["sweep.name=batch"])
    assert scores == [pytest.approx(0.251), pytest.approx(1.251)]


class TestOnSweepsThatExist:
    @pytest.fixture(autouse=True)
    def begun(self) -> None:
        failing[1] = 65
        with pytest.raises(MembersFailedError):
            run_sweep(read_plan(words()))
        failing.clear()

    def test_status_is_a_table(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["sweep", "status", "x"]) == 0
        first, *rows = capfd.readouterr().out.splitlines()
        assert first == f"{FOLDER.resolve()}: 3 finished, 1 failed; nothing runs it"
        assert rows[0].split() == ["000", "finished", "step", "4", "val/loss", "0.251", "optimizer.lr=0.001", "seed=1"]
        assert rows[1].endswith("it was made to fail")
        assert sweep_status(SavedSweep.open(FOLDER)).count("\n") == 5

    def test_resume_goes_on_wherever_it_is_called(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert main(["sweep", "resume", str(tmp_path / FOLDER)]) == 0
        assert capfd.readouterr().out == f"{tmp_path / FOLDER}\n"
        assert [member.state for member in SavedSweep.open(tmp_path / FOLDER).members] == ["finished"] * 4

    @pytest.mark.parametrize(
        ("typed", "said"),
        [
            (["stop", "x"], "nothing runs "),
            (["status"], "etude sweep status takes one sweep: a folder, its name, or last"),
            (["status", "x", "y"], "etude sweep status takes one sweep"),
            (["stop", "x", "seed=1"], "etude sweep stop does not take seed=1; it takes paths.outputs=FOLDER"),
            (["status", "nowhere"], "no sweep 'nowhere' here or in outputs; nearest: translation/demo/x"),
        ],
    )
    def test_wrong_words_are_one_line(self, typed: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["sweep", *typed]) == 78
        assert said in capfd.readouterr().err

    @pytest.mark.parametrize("kind", ["status", "stop", "resume"])
    def test_help(self, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["sweep", kind, "--help"]) == 0
        assert capfd.readouterr().out.startswith(f"etude sweep {kind}: ")


def test_help_and_configuration_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    shown = capfd.readouterr().out
    assert "searcher: cmaes, grid, random, tpe" in shown
    assert "learning_rate" in shown
    assert main(["sweep", "--cfg", "job", "search=learning_rate", "seed=1,2", "--package", "sweep"]) == 0
    assert "trials: 20" in capfd.readouterr().out


def test_the_python_door(tmp_path: Path) -> None:
    sweep = etude.sweep("translation/demo", *JUDGED, "sweep.name=x", seed=[1, 2])
    assert isinstance(sweep, etude.Sweep)
    assert os.fspath(sweep) == str(FOLDER)
    assert sweep.table == {
        "member": [0, 1],
        "trial": [0, 1],
        "state": ["finished", "finished"],
        "seed": [1, 2],
        "step": [4, 4],
        "score": [pytest.approx(0.952, abs=0.01), pytest.approx(0.953, abs=0.01)],
    } | {"score": sweep.table["score"]}
    with pytest.raises(ConfigurationError, match="does not divide"):
        etude.sweep("translation/demo", *JUDGED, "model.heads=5", seed=[1, 2])
