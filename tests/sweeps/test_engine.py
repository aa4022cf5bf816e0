"""A sweep that is killed at any time goes on to what it would have come to, whatever its searcher."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from etude.runs.record import RECORD, read
from etude.signals import StoppedError
from etude.sweeps.engine import Engine
from etude.sweeps.launchers.base import Job
from etude.sweeps.study import Study
from etude.sweeps.sweep_documents import read_member
from etude.sweeps.sweep_plan import SweepPlan, read_plan
from tests.sweeps.pretended import VALIDATIONS, KilledError, PretendedLauncher

JUDGED = ("validate.metric=val/loss", "validate.mode=min", "logger=none")
TPE = ("searcher=tpe", "searcher.startup=2", "optimizer.lr=tag(log,interval(1e-5,1e-1))", "sweep.trials=5")


def a_plan(folder: Path, *words: str) -> SweepPlan:
    return read_plan([*JUDGED, f"paths.outputs={folder}", *words])


def the_engine(plan: SweepPlan, folder: Path, launcher: PretendedLauncher) -> Engine:
    folder = folder / plan.experiment / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(
        folder, plan, launcher, Study(folder, plan.name, "min", plan.pruner.pruner()), 1, lambda engine: None
    )
    engine.restore()
    return engine


def went_on(plan: SweepPlan, folder: Path, launcher: PretendedLauncher | None = None) -> Engine:
    engine = the_engine(plan, folder, launcher or PretendedLauncher())
    engine.run()
    return engine


def results(engine: Engine) -> dict[int, Any]:
    """What a sweep came to: each member's words, state, record and end, and what the study says of its trial."""
    trials = {trial.number: (trial.state, trial.value, trial.assignment) for trial in engine.study.trials}
    return {
        number: (
            [word for word in entry.member.words if not word.startswith("paths.")],
            entry.state,
            [dict(event.values) for event in read(entry.folder / RECORD)] if (entry.folder / RECORD).exists() else [],
            trials.get(entry.member.trial.number),
        )
        for number, entry in engine.entries.items()
    }


KILLS = settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

SWEEPS = {
    "grid": ("optimizer.lr=1e-4,1e-3", "seed=1,2"),
    "tpe": TPE,
    "pruned": (*TPE, "pruner=median", "pruner.startup=2", "pruner.warmup=0"),
    "seeds": (*TPE[:3], "sweep.trials=4", "sweep.seeds=[1,2]", "sweep.reject=true"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, Any]]:
    ends = {}
    for name, words in SWEEPS.items():
        folder = tmp_path_factory.mktemp(name)
        ends[name] = results(went_on(a_plan(folder, "sweep.name=one", *words), folder))
    return ends


@pytest.mark.parametrize("name", SWEEPS)
@settings(KILLS)
@given(kills=st.lists(st.integers(0, 14), min_size=1, max_size=4))
def test_killed_at_any_time_it_comes_to_the_same(
    name: str, kills: list[int], undisturbed: dict[str, dict[int, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    plan = a_plan(folder, "sweep.name=one", *SWEEPS[name])
    for calls in kills:
        try:
            went_on(plan, folder, PretendedLauncher(calls=calls))
        except KilledError:
            continue
    assert results(went_on(plan, folder)) == undisturbed[name]


def test_a_finished_sweep_starts_nothing(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, *SWEEPS["grid"])
    went_on(plan, tmp_path)
    again = PretendedLauncher()
    engine = went_on(plan, tmp_path, again)
    assert again.jobs == []
    assert [entry.state for entry in engine.entries.values()] == ["finished"] * 4


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    whole = results(went_on(a_plan(tmp_path / "a", "sweep.name=one", *TPE), tmp_path / "a"))
    went_on(a_plan(tmp_path / "b", "sweep.name=one", *TPE, "sweep.trials=3"), tmp_path / "b")
    later = results(went_on(a_plan(tmp_path / "b", "sweep.name=one", *TPE), tmp_path / "b"))
    assert later == whole


def test_as_many_run_at_once_as_there_are_slots(tmp_path: Path) -> None:
    launcher = PretendedLauncher(slots=3)
    went_on(a_plan(tmp_path, "optimizer.lr=1e-4,1e-3,1e-2,1e-1"), tmp_path, launcher)
    assert launcher.most == 3
    assert len(launcher.jobs) == 4


def test_pruning_ends_the_worse_and_not_the_best(tmp_path: Path) -> None:
    words = ("pruner=median", "pruner.startup=2", "pruner.warmup=0", "optimizer.lr=1e-3,1e-2,1e-5,1e-1,1.2e-3")
    engine = went_on(a_plan(tmp_path, *words), tmp_path)
    states = {entry.member.trial.assignment["optimizer.lr"]: entry.state for entry in engine.entries.values()}
    assert states == {0.001: "finished", 0.01: "finished", 1e-05: "pruned", 0.1: "pruned", 0.0012: "finished"}
    assert len(read(engine.entries[2].folder / RECORD)) == 1
    assert {trial.number for trial in engine.study.trials if trial.state == "pruned"} == {2, 3}


def test_seeds_of_a_hopeless_trial_are_left_out(tmp_path: Path) -> None:
    words = ("sweep.seeds=[1,2]", "sweep.reject=true", "optimizer.lr=1e-3,1.1e-3,1.2e-3,1e-1")
    engine = went_on(a_plan(tmp_path, *words), tmp_path)
    assert [entry.state for entry in engine.entries.values()] == ["finished"] * 7 + ["rejected"]
    means = {trial.number: trial.value for trial in engine.study.trials}
    assert means[0] == pytest.approx(0.25 + 0.0015)


class TestFailures:
    def test_a_member_is_tried_again_and_goes_on(self, tmp_path: Path) -> None:
        codes = iter([0, 0, 1, 0, 0])
        launcher = PretendedLauncher(fails=lambda job: next(codes, 0))
        engine = went_on(a_plan(tmp_path, "optimizer.lr=1e-3"), tmp_path, launcher)
        assert [job.number for job in launcher.jobs] == [0, 0]
        assert engine.entries[0].state == "finished"
        assert len(read(engine.entries[0].folder / RECORD)) == VALIDATIONS
        attempts = read_member(engine.entries[0].folder).attempts
        assert [(attempt.code, attempt.reason, attempt.step) for attempt in attempts] == [(1, "it was made to fail", 2)]

    @pytest.mark.parametrize(("code", "tries"), [(1, 3), (78, 1), (65, 1), (-9, 3)])
    def test_the_others_go_on_when_it_fails_for_good(self, code: int, tries: int, tmp_path: Path) -> None:
        def fails(job: Job) -> int:
            return code if job.number == 1 else 0

        launcher = PretendedLauncher(fails=fails)
        engine = went_on(a_plan(tmp_path, "optimizer.lr=1e-3,1e-2,1e-1"), tmp_path, launcher)
        assert [entry.state for entry in engine.entries.values()] == ["finished", "failed", "finished"]
        assert [entry.member.number for entry in engine.failed] == [1]
        assert sum(job.number == 1 for job in launcher.jobs) == tries
        assert engine.study.trials[1].state == "failed"

    def test_given_again_what_failed_is_tried_again(self, tmp_path: Path) -> None:
        plan = a_plan(tmp_path, "optimizer.lr=1e-3,1e-2")
        went_on(plan, tmp_path, PretendedLauncher(fails=lambda job: 78 * (job.number == 0)))
        launcher = PretendedLauncher()
        engine = went_on(plan, tmp_path, launcher)
        assert [job.number for job in launcher.jobs] == [0]
        assert [trial.state for trial in engine.study.trials] == ["finished", "finished"]
        assert len(read_member(engine.entries[0].folder).attempts) == 1

    def test_one_that_gets_further_each_time_is_tried_as_often_as_it_takes(self, tmp_path: Path) -> None:
        seen: set[int] = set()

        def fails(job: Job) -> int:
            done = len((job.folder / RECORD).read_text().splitlines())
            if done in seen or done == 0:
                return 0
            seen.add(done)
            return 1

        launcher = PretendedLauncher(fails=fails)
        engine = went_on(a_plan(tmp_path, "optimizer.lr=1e-3", "sweep.retries=0"), tmp_path, launcher)
        assert engine.entries[0].state == "finished"
        assert len(launcher.jobs) == VALIDATIONS

    def test_a_folder_that_is_let_go_of_late_is_no_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        codes = iter([73, 73])
        launcher = PretendedLauncher(fails=lambda job: next(codes, 0))
        engine = went_on(a_plan(tmp_path, "optimizer.lr=1e-3", "sweep.retries=0"), tmp_path, launcher)
        assert engine.entries[0].state == "finished"
        assert read_member(engine.entries[0].folder).attempts == []


class TestStages:
    FILE = """
stages:
  first: {words: {optimizer.lr: 0.001}, space: {seed: [1, 2]}}
  second: {start: first, space: {seed: [1, 2], optimizer.lr: [0.001, 0.01]}}
"""

    def plan(self, folder: Path) -> SweepPlan:
        (folder / "conf" / "search").mkdir(parents=True)
        (folder / "conf" / "search" / "road.yaml").write_text(self.FILE)
        return read_plan([*JUDGED, f"paths.outputs={folder}", "search=road"], folder / "conf")

    def test_what_starts_from_a_run_waits_for_it(self, tmp_path: Path) -> None:
        launcher = PretendedLauncher(slots=4)
        engine = went_on(self.plan(tmp_path), tmp_path, launcher)
        assert [job.number for job in launcher.jobs] == [0, 1, 2, 3, 4, 5]
        assert launcher.most == 4
        starts = {number: entry.member.start for number, entry in engine.entries.items()}
        assert starts == {0: None, 1: None, 2: 0, 3: 0, 4: 1, 5: 1}
        assert engine.entries[4].config.start == f"{engine.plan.experiment}/{engine.plan.name}/001"
        assert len(engine.study.trials) == 4  # what others start from is judged by them

    def test_what_starts_from_a_failure_is_left_out(self, tmp_path: Path) -> None:
        engine = went_on(self.plan(tmp_path), tmp_path, PretendedLauncher(fails=lambda job: 78 * (job.number == 1)))
        states = [entry.state for entry in engine.entries.values()]
        assert states == ["finished", "failed", "finished", "finished", "skipped", "skipped"]


def test_a_signal_lets_the_members_save_first(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, "optimizer.lr=1e-3,1e-2,1e-1")
    launcher = PretendedLauncher(slots=2)
    engine = the_engine(plan, tmp_path, launcher)
    once = iter([signal.SIGINT])

    def interrupt(engine: Engine) -> None:
        if launcher.most == 2 and (number := next(once, None)) is not None:
            os.kill(os.getpid(), number)

    engine.show = interrupt
    with pytest.raises(StoppedError, match="with 3 members to go; continue with: etude sweep resume") as stopped:
        engine.run()
    assert stopped.value.exit_code == 130
    assert launcher.sent == [(0, signal.SIGTERM), (1, signal.SIGTERM)]
    said = json.loads((engine.folder / "state.json").read_text())["members"]
    assert [member["state"] for member in said] == ["stopped", "stopped", "waiting"]
    assert all(entry.state == "finished" for entry in went_on(plan, tmp_path).entries.values())


def test_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"members 0 and 1 are both called one; leave run\.name out"):
        went_on(a_plan(tmp_path, "optimizer.lr=1e-3,1e-2", "run.name=one"), tmp_path)
