"""Trials are compared by the mean over their seeds, the best first; what is not at its end is no result."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etude.errors import ConfigurationError
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from etude.sweeps.sweep_documents import MEMBER
from etude.sweeps.sweep_results import Spread, SweepResults
from tests.sweeps.test_saved_sweep import FINISHED, PRUNED, add, begun, said
from tests.sweeps.written_sweeps import written_sweep

SCORES = st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=3), min_size=1, max_size=5)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5))
def test_mean_and_deviation_are_those_of_the_values(values: list[float]) -> None:
    spread = Spread(tuple(values))
    assert min(values) - 1e-9 <= spread.mean <= max(values) + 1e-9
    assert spread.sd == (statistics.stdev(values) if len(values) > 1 else None)


@pytest.mark.parametrize("mode", ["min", "max"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=SCORES)
def test_the_first_trial_is_the_best_one_of_the_sweep(
    tmp_path_factory: pytest.TempPathFactory, mode: str, drawn: list[list[int]]
) -> None:
    """Whatever the scores, the order is that of the means, those of fewer seeds come after, and all members are there."""
    sweep = begun(tmp_path_factory.mktemp("sweeps") / "sweep", mode=mode)
    number = 0
    for trial, values in enumerate(drawn):
        for value in values:
            add(sweep, number, trial, float(value))
            number += 1
    results = SweepResults.read(sweep)
    best = results.best
    assert best is not None and results.trials[0] is best
    assert results.require_best() is best
    most = max(map(len, drawn))
    sign = -1 if mode == "max" else 1
    ranks = [(len(drawn[one.number]) < most, sign * statistics.fmean(drawn[one.number])) for one in results.trials]
    assert ranks == sorted(ranks)
    assert [one.document.number for one in results.members] == list(range(number))


def test_a_trial_is_as_good_as_its_worst_member_and_one_without_a_score_is_last(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep")
    pruned = "pruned after 2 validations"
    add(sweep, 0, 0, 5.0, ended=None)
    add(sweep, 1, 1, 4.0)
    add(sweep, 2, 1, 4.0, ended=None)
    add(sweep, 3, 2, 3.0)
    add(sweep, 4, 2, ended=None)
    add(sweep, 5, 3, 2.0, ended=pruned)
    add(sweep, 6, 3, ended=None)
    add(sweep, 7, 4, 1.0)
    add(sweep, 8, 4, ended=None)
    said(sweep, m0="failed", m4="rejected", m6="rejected", m8="skipped")
    trials = SweepResults.read(sweep).trials
    states = {trial.number: trial.state for trial in trials}
    assert states == {0: "failed", 1: "unfinished", 2: "rejected", 3: "pruned", 4: "failed"}
    assert [trial.number for trial in trials] == [4, 3, 2, 1, 0]
    assert trials[-1].score is None and trials[-1].seconds == 1.0
    assert {trial.number: trial.reason for trial in trials} == {
        0: "it fell over",
        1: "it fell over",
        2: "",
        3: pruned,
        4: "",
    }
    assert SweepResults.read(sweep).unfinished == 1


def test_where_members_are_judged_by_different_scores_none_is_the_best(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep", metric=None)
    add(sweep, 0, 0, 9.0)
    add(sweep, 1, 1, 1.0, metric="val/bleu")
    results = SweepResults.read(sweep)
    assert results.best is None and [trial.number for trial in results.trials] == [0, 1]
    assert [trial.score.mean for trial in results.trials if trial.score] == [9.0, 1.0]


def test_a_seed_that_is_searched_is_no_parameter(tmp_path: Path) -> None:
    """`seed=1,2` makes trials for Optuna; here they are the seeds of one."""
    sweep = written_sweep(tmp_path, "optimizer.lr=1e-4,1e-3", "model.width=128", "seed=1,2,3")
    results = SweepResults.read(sweep)
    assert results.varied == ["optimizer.lr"]
    assert [(trial.assignment, trial.seeds) for trial in results.trials] == [
        ({"optimizer.lr": 1e-3}, [1, 2, 3]),
        ({"optimizer.lr": 1e-4}, [1, 2, 3]),
    ]
    scores = results.trials[0].scores["val/loss"]
    assert scores.values == pytest.approx((0.251, 0.252, 0.253)) and scores.sd == pytest.approx(0.001)


def test_only_what_differs_varies_and_a_value_that_not_all_have_differs(tmp_path: Path) -> None:
    words = ("scheduler=cosine,constant", "optimizer.lr=1e-3", "model.layers=2", "optimizer.fused=true,false")
    results = SweepResults.read(written_sweep(tmp_path, *words))
    assert results.varied == ["scheduler", "optimizer.fused"]
    assert results.domain("scheduler")["values"][0][0] == "cosine"
    assert results.domain("model.layers") == {}


def test_importances_are_those_of_the_study_and_reading_changes_no_file(tmp_path: Path) -> None:
    words = ("optimizer.lr=1e-5,1e-4,1e-3,1e-2", "model.dropout=0.1,0.2")
    sweep = written_sweep(tmp_path, *words)
    before = {path: path.read_bytes() for path in sweep.path.rglob("*") if path.is_file()}
    shares = SweepResults.read(sweep).importances
    assert sum(shares.values()) == pytest.approx(1.0) and shares["optimizer.lr"] > 0.9
    assert {path: path.read_bytes() for path in sweep.path.rglob("*") if path.is_file()} == before
    (sweep.path / "study.journal").unlink()
    assert SweepResults.read(sweep).importances == {}
    for folder in sweep.folders:
        (folder / MEMBER).unlink()
    results = SweepResults.read(SavedSweep.open(sweep.path))
    assert results.trials == [] and results.best is None


def best_members(sweep: SavedSweep) -> list[SavedMember]:
    return SweepResults.read(sweep).require_best().ended


# The best


@pytest.mark.parametrize(("mode", "trial"), [("min", 1), ("max", 2)])
def test_the_best_trial_is_that_of_the_best_mean(tmp_path: Path, mode: str, trial: int) -> None:
    """Trial 0 has the best member of all and the worst one too, so that its mean is in the middle."""
    sweep = begun(tmp_path / "sweep", mode=mode)
    for number, score in enumerate([1.0, 9.0, 4.0, 4.0, 6.0, 6.0]):
        add(sweep, number, number // 2, score)
    best = best_members(sweep)
    assert [member.document.number for member in best] == [2 * trial, 2 * trial + 1]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_of_equal_means_the_first_trial_is_best(tmp_path: Path, mode: str) -> None:
    sweep = begun(tmp_path / "sweep", mode=mode)
    for number, score in enumerate([3.0, 1.0, 2.0, 2.0]):
        add(sweep, number, 1 - number // 2, score)
    assert [member.document.trial for member in best_members(sweep)] == [0, 0]


def test_each_member_counts_with_the_best_of_its_validations(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep")
    add(sweep, 0, 0, 2.0, 2.0)
    add(sweep, 1, 1, 1.0, 9.0)
    assert [member.document.trial for member in best_members(sweep)] == [1]


def test_trials_with_fewer_seeds_or_without_scores_are_not_compared(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep")
    add(sweep, 0, 0, 5.0)
    add(sweep, 1, 0, 5.0)
    add(sweep, 2, 1, 1.0)
    add(sweep, 3, 1, 1.0, ended=None)  # not at its end
    add(sweep, 4, 2)
    add(sweep, 5, 2, float("nan"))
    add(sweep, 6, 3, 0.5, metric="val/bleu")
    add(sweep, 7, 3, 0.5, metric="val/bleu")
    assert [member.document.trial for member in best_members(sweep)] == [0, 0]


def test_pruned_members_can_be_the_best(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep")
    add(sweep, 0, 0, 5.0)
    add(sweep, 1, 1, 1.0, ended=PRUNED)
    assert [member.document.number for member in best_members(sweep)] == [1]


@pytest.mark.parametrize("ended", [None, FINISHED])
def test_without_a_score_there_is_no_best(tmp_path: Path, ended: str | None) -> None:
    sweep = begun(tmp_path / "sweep")
    add(sweep, 0, 0, ended=ended)
    with pytest.raises(ConfigurationError, match=f"no member of {sweep.path} is finished; first: etude sweep resume"):
        best_members(sweep)


def test_of_members_with_different_scores_none_is_the_best(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep", metric=None)
    add(sweep, 0, 0, 1.0)
    with pytest.raises(ConfigurationError, match="are judged by different scores"):
        best_members(sweep)
