"""All errors of all runs at once, and what the others will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from etude.cli.main import main
from etude.commands import check_runs
from etude.commands.check_runs import ChecksFailedError, check
from etude.config.schema import Config
from etude.errors import DataError
from etude.training.preflight.forecast import Forecast, Preflight

DEMO = ("experiment=translation/demo", "logger=none")
seen: list[Config] = []


@pytest.fixture(autouse=True)
def forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained: a step takes a millisecond for each unit of width, and width 13 has no data."""

    def preflight(configs: Sequence[Config]) -> list[Preflight]:
        seen.extend(configs)
        return [forecast(config) for config in configs]

    def forecast(config: Config) -> Preflight:
        width = config.model.arguments.get("width", 64)
        if config.seed == 13:
            return Preflight(config, error=DataError("train.en is empty"))
        return Preflight(config, Forecast(1000, width / 1e3, float(width), width * 2**24, "cpu", 1, 10 * width, width))

    seen.clear()
    monkeypatch.setattr(check_runs, "preflight", preflight)


def test_a_line_for_each_shape_and_the_sum(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-m", *DEMO, "model.width=128,256", "seed=1,2"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "runs"
    assert [line.split() for line in lines[1:3]] == [
        ["2", "1,280", "1,000", "0.128", "2", "min", "2.00", "GiB", "cpu", "1", "model.width=128", "seed=1"],
        ["2", "2,560", "1,000", "0.256", "4", "min", "4.00", "GiB", "cpu", "1", "model.width=256", "seed=1"],
    ]
    assert lines[3:] == ["13 min of training in all, one after the other"]
    assert [config.seed for config in seen] == [1, 2, 1, 2]


def test_a_single_run_is_checked_too() -> None:
    assert "2 min of training in all" in check([*DEMO, "model.width=128"])


def test_every_error_is_told_at_once() -> None:
    with pytest.raises(ChecksFailedError) as failed:
        check([*DEMO, "model.heads=4,5,7", "seed=1,13"])
    said = str(failed.value)
    assert said.startswith("5 runs cannot be trained: ")
    assert "model.heads=5 seed=1" in said and "model.heads = 5 does not divide" in said
    assert "model.heads=7 seed=1" in said and "model.heads = 7 does not divide" in said
    assert "model.heads=4 seed=13: train.en is empty" in said
    assert len(seen) == 2  # those that compose
    assert failed.value.exit_code == 1


@pytest.mark.parametrize(("words", "code"), [(["model.heads=4,5"], 78), (["seed=1,13"], 65)])
def test_errors_of_one_kind_have_its_code(words: list[str], code: int) -> None:
    assert main(["check", *DEMO, *words]) == code


def test_a_search_is_checked_at_its_ends_and_summed_over_its_trials() -> None:
    text = check(
        [*DEMO, "search=learning_rate", "searcher=tpe", "sweep.trials=30", "sweep.seeds=[1,2]", "model.width=120"]
    )
    assert {config.optimizer.arguments["lr"] for config in seen} == {1e-4, 1e-2}
    assert {config.seed for config in seen} == {1, 2}
    assert text.splitlines()[-1] == "about 2.0 h of training in all for 60 runs, one after the other"


def test_runs_that_start_from_others_are_composed_alone(tmp_path: Path) -> None:
    text = check(["search=road_imdb", "labels=100,500", "logger=none"])
    assert "runs start from others: they are composed, and not built before those are finished" in text
