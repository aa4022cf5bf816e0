"""Pruners end what is worse than the others, when there are enough others, and never by chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import optuna
import pytest
import yaml

from etude.config.compose import CONF
from etude.sweeps.pruners import Hyperband, Median, NoPruner, Pruner

optuna.logging.set_verbosity(optuna.logging.ERROR)


def ended_at(
    pruner: Pruner, trials: Sequence[Sequence[float]], mode: Literal["minimize", "maximize"] = "minimize"
) -> list[int | None]:
    """Return for each trial, one after the other, the validation at which it ends; None if it spends its budget."""
    study = optuna.create_study(direction=mode, pruner=pruner.pruner(), study_name="a study")
    found: list[int | None] = []
    for scores in trials:
        trial, end = study.ask(), None
        for index, score in enumerate(scores, 1):
            trial.report(score, index)
            if trial.should_prune():
                end = index
                break
        if end is None:
            study.tell(trial, scores[-1])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        found.append(end)
    return found


GOOD, BAD = [3.0, 2.0, 1.0, 0.5], [9.0, 9.0, 9.0, 9.0]


def test_without_a_pruner_every_trial_spends_its_budget() -> None:
    assert ended_at(NoPruner(), [GOOD] * 5 + [BAD] * 5) == [None] * 10


@pytest.mark.parametrize("startup", [1, 3])
@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_median_judges_after_so_many_trials_and_validations(startup: int, warmup: int) -> None:
    ends = ended_at(Median(startup=startup, warmup=warmup), [GOOD] * startup + [BAD, GOOD, BAD])
    first = max(1, warmup)  # Optuna judges at a validation that is the last of the warm-up
    assert ends == [None] * startup + [first, None, first]
    assert ended_at(Median(startup=startup, warmup=warmup), [GOOD] * (startup - 1) + [BAD]) == [None] * startup


def test_the_median_judges_by_the_best_score_so_far() -> None:
    recovers = [1.0, 9.0, 9.0, 9.0]
    assert ended_at(Median(startup=2, warmup=1), [GOOD, GOOD, recovers])[2] == 4
    upwards = [[-one for one in scores] for scores in (GOOD, GOOD, BAD)]
    assert ended_at(Median(startup=2, warmup=0), upwards, "maximize") == [None, None, 1]


def test_hyperband_keeps_the_first_trial_and_ends_most_of_the_bad_ones() -> None:
    steps = 27
    good = [[1 / index for index in range(1, steps + 1)]]
    bad = [[float(5 + number)] * steps for number in range(20)]
    ends = ended_at(Hyperband(), good + bad)
    assert ends[0] is None
    assert sum(end is not None for end in ends) > 10
    assert ended_at(Hyperband(), good + bad) == ends, "which bracket a trial is in is no chance"
    late = ended_at(Hyperband(minimum=9), good + bad)
    assert all(end is None or end >= 9 for end in late)
    assert any(end is not None for end in late)


@pytest.mark.parametrize("path", sorted((CONF / "pruner").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_names_every_setting_of_its_pruner(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    pruner = msgspec.convert(values, Pruner, strict=True)
    assert values == msgspec.to_builtins(pruner)
    assert values["type"] == path.stem
    assert pruner == type(pruner)(), "the file's values are the defaults"
    assert isinstance(pruner.pruner(), optuna.pruners.BasePruner)


def test_every_pruner_has_a_file() -> None:
    assert {path.stem for path in (CONF / "pruner").glob("*.yaml")} == {"none", "median", "hyperband"}


@pytest.mark.parametrize(
    "values",
    [
        {"type": "median", "startup": -1},
        {"type": "median", "warmup": -1},
        {"type": "median", "patience": 1},
        {"type": "hyperband", "minimum": 0},
        {"type": "hyperband", "reduction": 1},
        {"type": "none", "startup": 1},
        {"type": "percentile"},
    ],
    ids=str,
)
def test_a_setting_that_is_none_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, Pruner, strict=True)
