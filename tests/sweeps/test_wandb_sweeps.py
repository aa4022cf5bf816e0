"""W&B's file of a sweep: what it says of each parameter, and what it cannot say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from etude.config.compose import CONF, Composer
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.sweeps.sweep_plan import SweepPlan, read_plan
from etude.sweeps.wandb_sweeps import as_yaml, notes, wandb_configuration

FIXED = ["experiment=translation/demo", "limit.train=60"]


@cache
def composed(words: tuple[str, ...]) -> Config:
    composer = Composer(CONF, "train")
    return composer.compose(composer.normalized(words)).config()


def member(plan: SweepPlan) -> Config:
    """The configuration that all members share, but for what varies."""
    return composed(plan.stages[0].words)


def configuration(*words: str) -> dict[str, Any]:
    plan = read_plan([*FIXED, *words])
    return wandb_configuration(plan, member(plan))


def test_a_search_is_a_sweep_of_wandb() -> None:
    words = [
        "search=learning_rate",
        "searcher=tpe",
        "pruner=hyperband",
        "sweep.trials=7",
        "sweep.name=peak",
        "logger.wandb.entity=us",
    ]
    assert configuration(*words) == {
        "name": "peak",
        "project": "etude",
        "entity": "us",
        "method": "bayes",
        "run_cap": 7,
        "metric": {"name": "val/bleu", "goal": "maximize"},
        "parameters": {
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
            "scheduler": {"values": ["cosine", "inverse_square_root", "constant"]},
        },
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 3},
        "program": "etude",
        "command": ["${env}", "${program}", "train", *FIXED, "logger.wandb.entity=us", "${args_no_hyphens}"],
    }


@pytest.mark.parametrize(
    ("searcher", "method"), [("grid", "grid"), ("random", "random"), ("tpe", "bayes"), ("cmaes", "bayes")]
)
def test_the_method_is_the_nearest_of_wandb(searcher: str, method: str) -> None:
    ranges = ["optimizer.lr=1e-4,1e-3", "model.dropout=interval(0.0,0.5)", "optimizer.eps=interval(0.1,0.2)"]
    plan = read_plan([*FIXED, f"searcher={searcher}", *(ranges[:1] if searcher == "grid" else ranges)])
    said = wandb_configuration(plan, member(plan))
    assert said["method"] == method
    assert ("run_cap" in said) == (searcher != "grid")
    assert any("W&B's own" in line for line in notes(plan)) == (method == "bayes")


DOMAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "numbers": ("{low: 0.0, high: 0.5}", {"distribution": "uniform", "min": 0.0, "max": 0.5}),
    "of which one is whole": ("{low: 0, high: 0.5}", {"distribution": "uniform", "min": 0.0, "max": 0.5}),
    "whole numbers": ("{low: 2, high: 6}", {"distribution": "int_uniform", "min": 2, "max": 6}),
    "on a scale": (
        "{low: 1.0e-5, high: 1.0, log: true}",
        {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0},
    ),
    "whole on a scale": (
        "{low: 8, high: 512, log: true}",
        {"distribution": "q_log_uniform_values", "q": 1, "min": 8, "max": 512},
    ),
    "in steps": ("{low: 2, high: 7, step: 2}", {"distribution": "q_uniform", "q": 2, "min": 2, "max": 6}),
    "in steps from elsewhere": ("{low: 3, high: 8, step: 2}", {"values": [3, 5, 7]}),
    "in small steps": (
        "{low: 0.1, high: 0.5, step: 0.1}",
        {"distribution": "q_uniform", "q": 0.1, "min": 0.1, "max": 0.5},
    ),
    "values": ("[null, true, 1, 0.5, a b, [1, 2]]", {"values": [None, True, 1, 0.5, "a b", [1, 2]]}),
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., SweepPlan]]:
    """The plan of a search of one's own. All are in one folder, whose composer reads the files of the groups once."""
    conf = tmp_path_factory.mktemp("own") / "conf"
    (conf / "search").mkdir(parents=True)
    texts: dict[str, str] = {}

    def plan(text: str, *words: str) -> SweepPlan:
        name = texts.setdefault(text, f"written{len(texts)}")
        (conf / "search" / f"{name}.yaml").write_text(text)
        return read_plan([*FIXED, f"search={name}", *words], conf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etude.sweeps.sweep_plan.Composer", cache(Composer))
        yield plan


@pytest.mark.parametrize(("domain", "said"), DOMAINS.values(), ids=DOMAINS)
def test_each_domain_is_one_of_wandb(domain: str, said: dict[str, Any], searched: Callable[..., SweepPlan]) -> None:
    plan = searched(f"space:\n  run.notes: {domain}\n", "searcher=random")
    assert wandb_configuration(plan, member(plan))["parameters"] == {"run.notes": said}


def test_a_grid_names_its_values(searched: Callable[..., SweepPlan]) -> None:
    plan = searched("space:\n  model.layers: {low: 2, high: 6, step: 2}\n", "sweep.seeds=[1,2]")
    assert wandb_configuration(plan, member(plan))["parameters"] == {
        "model.layers": {"values": [2, 4, 6]},
        "seed": {"values": [1, 2]},
    }


def test_names_for_values_of_one_key_are_that_key(searched: Callable[..., SweepPlan]) -> None:
    plan = searched("space:\n  labels: {values: {few: {limit.val: 100}, all: {limit.val: null}}}\n")
    assert wandb_configuration(plan, member(plan))["parameters"] == {"limit.val": {"values": [100, None]}}


def test_the_folder_of_own_groups_goes_along(searched: Callable[..., SweepPlan]) -> None:
    plan = searched("space:\n  model.heads: [2, 4]\n")
    assert plan.extra is not None
    assert f"--config-dir={plan.extra}" in wandb_configuration(plan, member(plan))["command"]


REFUSED = {
    "a condition": (
        "space:\n  scheduler: [cosine, constant]\n  scheduler.warmup: {values: [5step, 9step], when: {scheduler: cosine}}\n",
        [],
        "scheduler.warmup of the search space depends on scheduler: in W&B each run has each parameter; fix it",
    ),
    "several keys at once": (
        "space:\n  labels: {values: {few: {limit.val: 9, budget: 6step}, all: {limit.val: null, budget: 9step}}}\n",
        [],
        "labels of the search space sets several keys at once",
    ),
    "different keys": (
        "space:\n  one: {values: {few: {limit.val: 9}, short: {budget: 9step}}}\n",
        [],
        "one of the search space sets several keys at once",
    ),
    "a reference": (
        "space: {}\n",
        ["model.heads=${seed},4"],
        "model.heads of the search space refers to another value",
    ),
    "long steps from elsewhere": (
        "space:\n  model.width: {low: 1, high: 900, step: 2}\n",
        ["searcher=random"],
        "counts in steps of 2 from 1: W&B counts from 0; begin at a multiple of 2",
    ),
    "stages": (
        "stages:\n  first: {space: {model.heads: [2, 4]}}\n  second: {start: first, space: {seed: [1, 2]}}\n",
        [],
        "the sweep has stages: W&B cannot do that",
    ),
    "a median": (
        "space:\n  model.heads: [2, 4]\n",
        ["pruner=median"],
        "has pruner=median, where W&B has pruner=hyperband",
    ),
    "means of seeds": (
        "space:\n  model.heads: [2, 4]\n",
        ["searcher=random", "sweep.seeds=[1,2]"],
        r"has sweep.seeds=\[1, 2\] and no searcher=grid",
    ),
    "early rejection": ("space:\n  model.heads: [2, 4]\n", ["sweep.reject=true"], "the sweep has sweep.reject=true"),
    "no logger": ("space:\n  model.heads: [2, 4]\n", ["logger=none"], "write logger=wandb"),
    "another logger": ("space:\n  model.heads: [2, 4]\n", ["logger=csv"], "write logger=wandb"),
    "nothing that varies": ("space: {}\n", [], "nothing varies"),
    "a key that is none": (
        "space:\n  optimizer@here: [sgd, adamw]\n",
        [],
        "W&B knows no parameter called optimizer@here",
    ),
}


@pytest.mark.parametrize(("text", "words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_wandb_cannot_do_is_one_line(
    text: str, words: list[str], message: str, searched: Callable[..., SweepPlan]
) -> None:
    plan = searched(text, *words)
    with pytest.raises(ConfigurationError, match=message):
        wandb_configuration(plan, member(plan))


def test_a_secret_is_left_out_and_that_is_said() -> None:
    plan = read_plan([*FIXED, "model.heads=2,4", "+logger.wandb.api_key=s3cret"])
    shared = member(read_plan([*FIXED, "model.heads=2,4"]))
    text = as_yaml(plan, shared)
    assert "s3cret" not in text
    assert "# a word with a secret is left out" in text


def test_wandb_reads_the_file(tmp_path: Path) -> None:
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, load_sweep_config

    plan = read_plan([*FIXED, "searcher=tpe", "model/positions=rotary,learned", "model.dropout=interval(0,0.5)"])
    file = tmp_path / "sweep.yaml"
    file.write_text(as_yaml(plan, member(plan)))
    read = load_sweep_config(str(file))
    assert read == yaml.safe_load(file.read_text()) == wandb_configuration(plan, member(plan))
    assert _validate_config_and_fill_distribution(read) == read  # it has nothing to guess
    assert create_sweep_command(read["command"]) == read["command"]
    # The pattern of W&B's schema; `etude train` takes a group's path with dots.
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) for name in read["parameters"])
    assert "model.positions" in read["parameters"]
