"""A draw is a function of seed and history and stays in its range; what learns from scores beats what does not."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from etude.config.compose import CONF
from etude.errors import ConfigurationError
from etude.sweeps.searchers import CMAES, TPE, Grid, Random, ReplayedCMAES, Searcher, check_searcher, trial_seed
from etude.sweeps.space import Assignment, Space
from etude.sweeps.space_reading import read_space

optuna.logging.set_verbosity(optuna.logging.ERROR)

DRAWN: list[Random | TPE | CMAES] = [Random(), TPE(startup=4), CMAES(population=4)]
MIXED = read_space(
    {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "layers": {"low": 2, "high": 8, "step": 2},
        "width": {"low": 1, "high": 64, "log": True},
        "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
        "scheduler": ["cosine", "constant", None],
        "warmup": {"values": [1, 2], "when": {"scheduler": "cosine"}},
    },
    "space",
)
SQUARE = read_space({"x": {"low": -4.0, "high": 4.0}, "y": {"low": 1e-3, "high": 1e3, "log": True}}, "space")


def bowl(one: Assignment) -> float:
    """A quadratic whose least value, 0, is at x = 1.7 and y = 10."""
    return (float(one["x"] or 0) - 1.7) ** 2 + (math.log10(float(one["y"] or 1)) - 1) ** 2


def searched(
    space: Space, searcher: Random | TPE | CMAES, trials: int, score: Callable[[Assignment], float], seed: int = 1
) -> list[tuple[Assignment, float]]:
    """The trials of a search in which each is drawn as in a new process: by a new sampler, in a study that is read back."""
    history: list[optuna.trial.FrozenTrial] = []
    found: list[tuple[Assignment, float]] = []
    for number in range(trials):
        study = optuna.create_study(sampler=searcher.sampler(trial_seed(seed, number)))
        study.add_trials(history)
        trial = study.ask()
        assignment = space.suggest(trial)
        found.append((assignment, score(assignment)))
        history.append(create_trial(params=trial.params, distributions=trial.distributions, value=found[-1][1]))
    return found


def mixed_score(one: Assignment) -> float:
    return abs(math.log10(float(one["lr"] or 1)) + 3) + (one["scheduler"] is None) + float(one["dropout"] or 0)


@pytest.mark.parametrize("searcher", DRAWN, ids=lambda one: type(one).__name__)
def test_draws_lie_in_their_ranges_and_on_their_steps(searcher: Random | TPE | CMAES) -> None:
    for one, _ in searched(MIXED, searcher, 30, mixed_score):
        assert 1e-4 <= float(one["lr"] or 0) <= 1e-2
        assert one["layers"] in (2, 4, 6, 8)
        assert isinstance(one["layers"], int)
        assert one["width"] in range(1, 65)
        assert min(abs(float(one["dropout"] or 0) - step) for step in (0.0, 0.1, 0.2, 0.3)) < 1e-9
        assert one["scheduler"] in ("cosine", "constant", None)
        assert ("warmup" in one) == (one["scheduler"] == "cosine")


@settings(max_examples=25)
@given(low=st.integers(-100, 100), length=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
def test_cmaes_stays_in_any_range(low: int, length: int, seed: int) -> None:
    space = read_space(
        {
            "float": {"low": low / 7, "high": (low + length) / 7},
            "step": {"low": low / 100, "high": (low + length) / 100, "step": 0.03},
            "log": {"low": length / 7, "high": length * 100, "log": True},
            "int": {"low": low, "high": low + length, "step": 3},
            "large": {"low": 1, "high": length + 1, "log": True},
        },
        "space",
    )
    study = optuna.create_study(sampler=ReplayedCMAES(seed, sigma=3.0, population=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna changes a range that its step does not divide
        for value in range(6):
            trial = study.ask()
            drawn = space.suggest(trial)
            study.tell(trial, float(value))
            assert all(type(one) in (int, float) for one in drawn.values())
            assert low / 7 <= float(drawn["float"] or 0) <= (low + length) / 7
            assert length / 7 <= float(drawn["log"] or 0) <= length * 100
            assert drawn["int"] in range(low, low + length + 1, 3)
            assert drawn["large"] in range(1, length + 2)
            steps = space.parameters[1].domain.grid() or ()
            assert min(abs(float(drawn["step"] or 0) - float(one or 0)) for one in steps) < 1e-9


# The same again


@pytest.mark.parametrize("searcher", DRAWN, ids=lambda one: type(one).__name__)
def test_the_same_seed_and_history_draw_the_same(searcher: Random | TPE | CMAES) -> None:
    first = searched(MIXED, searcher, 14, mixed_score)
    assert searched(MIXED, searcher, 14, mixed_score) == first
    assert searched(MIXED, searcher, 9, mixed_score) == first[:9]
    assert searched(MIXED, searcher, 14, mixed_score, seed=2) != first
    assert len({repr(one) for one, _ in first}) == 14


@pytest.mark.parametrize("searcher", [TPE(startup=4), CMAES(population=4)], ids=lambda one: type(one).__name__)
def test_scores_make_a_difference(searcher: TPE | CMAES) -> None:
    upwards = searched(SQUARE, searcher, 14, bowl)
    downwards = searched(SQUARE, searcher, 14, lambda one: -bowl(one))
    assert [one for one, _ in upwards] != [one for one, _ in downwards]
    assert upwards[0][0] == downwards[0][0]


def test_another_process_draws_the_same() -> None:
    """What a hash of Python's would decide differs from one process to the next."""
    code = (
        "from tests.sweeps.test_searchers import *\n"
        "print([searched(MIXED, searcher, 8, mixed_score) for searcher in DRAWN], trial_seed(3, 4))"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    here = [searched(MIXED, searcher, 8, mixed_score) for searcher in DRAWN]
    assert printed.strip() == f"{here} {trial_seed(3, 4)}"


def test_each_trial_has_a_seed_of_its_own() -> None:
    assert len({trial_seed(seed, number) for seed in range(20) for number in range(50)}) == 1000
    assert 0 <= trial_seed(1, 0) < 2**32


# Learning


@pytest.mark.parametrize(("searcher", "times"), [(TPE(), 3), (CMAES(), 10)], ids=["TPE", "CMAES"])
def test_a_search_finds_the_bottom_of_a_bowl_that_random_draws_miss(searcher: TPE | CMAES, times: int) -> None:
    """The median of the last ten scores: random draws do not get better with time."""

    def end(one: Random | TPE | CMAES) -> float:
        return median(
            median(score for _, score in searched(SQUARE, one, 60, bowl, seed=seed)[-10:]) for seed in (1, 2, 3)
        )

    assert end(searcher) < end(Random()) / times


def test_cmaes_walks_up_where_larger_is_better() -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(48):
        study.sampler = ReplayedCMAES(trial_seed(1, number), 0.3, 6)
        trial = study.ask()
        study.tell(trial, -bowl(SQUARE.suggest(trial)))
    assert median(float(one.value or 0) for one in study.trials[-12:]) > -0.5
    assert median(float(one.value or 0) for one in study.trials[:12]) < -2


def test_cmaes_learns_from_pruned_trials_and_leaves_failed_ones_out() -> None:
    ranges: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}

    def next_draw(*states: TrialState) -> dict[str, Any]:
        study = optuna.create_study(sampler=ReplayedCMAES(5, 0.3, 4))
        for place, state in enumerate(states):
            ended = state is not TrialState.FAIL
            params = {"x": 0.9, "y": 0.9 - 0.1 * place}
            scores = {1: -float(place)} if ended else {}
            value = -float(place) if ended else None
            study.add_trial(
                create_trial(state=state, params=params, distributions=ranges, value=value, intermediate_values=scores)
            )
        return study.ask(ranges).params

    complete, pruned, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    whole = [complete] * 4
    assert next_draw(complete, pruned, pruned, complete) == next_draw(*whole)
    assert next_draw(complete, failed, *whole) != next_draw(complete, complete, *whole)
    assert next_draw(*whole) != next_draw(*whole[:3])
    assert next_draw(*whole[:3], failed) == next_draw(*whole[:3])


def test_values_that_are_no_numbers_are_drawn_beside_cmaes() -> None:
    sampler: BaseSampler = ReplayedCMAES(5, 0.3, 4)
    study = optuna.create_study(sampler=sampler)
    ranges: dict[str, BaseDistribution] = {
        "x": FloatDistribution(0, 1),
        "y": FloatDistribution(0, 1),
        "z": CategoricalDistribution(["a", "b"]),
        "fixed": IntDistribution(3, 3),
    }
    for value in range(8):
        study.tell(study.ask(ranges), float(value))
    assert set(sampler.infer_relative_search_space(study, study.trials[-1])) == {"x", "y"}
    assert {one.params["z"] for one in study.trials} == {"a", "b"}


# Choices


@pytest.mark.parametrize("path", sorted((CONF / "searcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_names_every_setting_of_its_searcher(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    searcher = msgspec.convert(values, Searcher, strict=True)
    assert values == msgspec.to_builtins(searcher)
    assert values["type"] == path.stem
    assert searcher == type(searcher)(), "the file's values are the defaults"


def test_every_searcher_has_a_file() -> None:
    assert {path.stem for path in (CONF / "searcher").glob("*.yaml")} == {"grid", "random", "tpe", "cmaes"}


@pytest.mark.parametrize(
    "values", [{"startup": 0}, {"candidates": 0}, {"sigma": 0}, {"population": 3}, {"sigmas": 1}, {"type": "annealing"}]
)
def test_a_setting_that_is_none_is_refused(values: dict[str, Any]) -> None:
    kind = "tpe" if values.keys() & {"startup", "candidates"} else "cmaes"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": kind, **values}, Searcher, strict=True)


@pytest.mark.parametrize(
    ("searcher", "written", "text"),
    [
        (Grid(), {"lr": {"low": 0.1, "high": 1.0}}, "lr of the search space is a range, which has no end of values"),
        (Random(), {}, "there is nothing to search"),
        (TPE(), {}, "there is nothing to search"),
        (CMAES(), {}, "there is nothing to search"),
        (CMAES(), {"lr": {"low": 0.1, "high": 1.0}}, "needs two ranges that always exist, not 1"),
        (CMAES(), {"a": [1], "x": {"low": 0, "high": 1}, "y": {"low": 0, "high": 1, "when": {"a": 1}}}, "not 1"),
    ],
)
def test_a_searcher_that_has_no_use_for_a_space_says_so(searcher: Searcher, written: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)) as caught:
        check_searcher(searcher, read_space(written, "space"))
    assert "\n" not in str(caught.value)


def test_a_searcher_takes_the_spaces_it_is_for() -> None:
    check_searcher(Grid(), Space())
    check_searcher(Grid(), read_space({"a": [1, 2]}, "space"))
    for searcher in (*DRAWN, CMAES()):
        check_searcher(searcher, MIXED)
