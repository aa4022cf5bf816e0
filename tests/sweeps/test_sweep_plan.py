"""A plan is a function of its words: equal science has one name, stages join where they agree, and errors are one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import CONF, Composer
from etude.errors import ConfigurationError
from etude.sweeps.pruners import Hyperband, Median, NoPruner
from etude.sweeps.searchers import CMAES, TPE, Grid, Random
from etude.sweeps.space import Range
from etude.sweeps.space_reading import read_space
from etude.sweeps.sweep_plan import OWN, PlannedTrial, Stage, SweepPlan, SweepSettings, read_plan
from tests.house.test_configuration import EXPERIMENTS, NEEDED

DEMO = "experiment=translation/demo"


_composer = cache(Composer)


@pytest.fixture(autouse=True)
def files_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A composer keeps the files that it has read: what takes a plan most of its time."""
    monkeypatch.setattr("etude.sweeps.sweep_plan.Composer", _composer)


@cache
def read(*words: str) -> SweepPlan:
    return read_plan(words)


def staged(seeds: list[int] | None = None, **stages: tuple[dict[str, Any], str | None]) -> SweepPlan:
    """A plan of stages, each with a space and the stage that it starts from."""
    made = tuple(
        Stage(name, (DEMO,), read_space(space, f"search.stages.{name}.space"), start)
        for name, (space, start) in stages.items()
    )
    settings = SweepSettings(name="staged", seeds=seeds or [])
    return SweepPlan((), None, made, Grid(), NoPruner(), settings)


# Names


BASE = (DEMO, "model.dropout=0.1,0.2", "budget=20step", "sweep.seeds=[1,2]")


@pytest.mark.parametrize(
    "words",
    [
        BASE[::-1],
        (
            "trainer.micro_batches=4",
            "hydra.launcher.slots=2",
            *BASE,
            "trainer.devices=2",
            "logger=none",
            "log.every=3step",
        ),
        (*BASE, "paths.outputs=elsewhere", "run.notes='a note'", "run.tags=[a]", "sweep.trials=99", "sweep.retries=0"),
    ],
    ids=" ".join,
)
def test_the_machine_and_the_order_of_words_do_not_change_the_name(words: tuple[str, ...]) -> None:
    assert read(*words).name == read(*BASE).name
    assert read(*words).identity == read(*BASE).identity


def test_whatever_changes_the_science_changes_the_name() -> None:
    plan = read(*BASE)
    (stage,) = plan.stages
    spaces = [{"model.dropout": [0.1, 0.3]}, {"model.dropout": [0.2, 0.1]}, {"model.dropout": [0.1, 0.2], "a": [1]}]
    stages = [
        *(replace(stage, space=read_space(space, "space")) for space in spaces),
        replace(stage, words=(DEMO, "budget=21step")),
        replace(stage, words=(*stage.words, "model.width=32")),
        replace(stage, name="first"),
    ]
    others = [
        read(*BASE[:2], "budget=21step", "sweep.seeds=[1,3]"),
        *(replace(plan, stages=(one,)) for one in stages),
        *(replace(plan, searcher=searcher) for searcher in (Random(), TPE(), TPE(startup=3))),
        *(replace(plan, pruner=pruner) for pruner in (Median(), Median(startup=3))),
        *(replace(plan, settings=SweepSettings(seeds=seeds)) for seeds in ([], [1, 3], [2, 1], [1, 2, 3])),
        replace(plan, settings=SweepSettings(seeds=[1, 2], reject=True)),
        replace(plan, settings=SweepSettings(seeds=[1, 2], seed=2)),
    ]
    assert len({one.name for one in (plan, *others)}) == len(others) + 1
    assert replace(plan, settings=SweepSettings(seeds=[1, 2], trials=3, drift="allow")).name == plan.name


def test_a_name_says_what_varies_and_can_name_a_folder() -> None:
    assert re.fullmatch(r"dropout-seed-[0-9a-f]{8}", read(*BASE).name)
    assert re.fullmatch(r"learning_rate-[0-9a-f]{8}", read(DEMO, "search=learning_rate", "searcher=tpe").name)
    assert re.fullmatch(r"one-[0-9a-f]{8}", read(DEMO).name)
    assert read(*BASE, "sweep.name=mine").name == "mine"
    many = staged(one=({f"model.parameter {place}": [1, 2] for place in range(9)}, None))
    plan = SweepPlan((), None, many.stages, Grid(), NoPruner(), SweepSettings())
    assert re.fullmatch(r"[\w.=-]{1,40}-[0-9a-f]{8}", plan.name)


def test_members_that_would_have_other_numbers_are_another_sweep() -> None:
    """The same name, given by hand: the order of parameters says which member is 001."""
    one, other = read(DEMO, "seed=1,2", "model.width=16,32"), read(DEMO, "model.width=16,32", "seed=1,2")
    assert one.identity != other.identity


def test_the_identity_is_json_and_holds_no_secret() -> None:
    plan = read(DEMO, "seed=1,2", "data.api_key=hunter2")
    assert json.loads(json.dumps(plan.identity)) == plan.identity
    assert "hunter2" not in json.dumps(plan.identity)
    assert "data.api_key=hunter2" in plan.stages[0].words


@pytest.mark.parametrize(
    ("words", "experiment"),
    [
        ((DEMO, "seed=1,2"), "translation/demo"),
        ((DEMO, "seed=1,2", "run.experiment=mine"), "mine"),
        (("experiment=translation/demo,masked_lm/demo",), "several"),
        (("experiment=translation/demo,masked_lm/demo", "run.experiment=both"), "both"),
    ],
    ids=str,
)
def test_a_sweep_is_in_the_folder_of_its_experiment(words: tuple[str, ...], experiment: str) -> None:
    assert read(*words).experiment == experiment


# Words and files


def test_words_of_the_sweep_are_not_those_of_members() -> None:
    plan = read(*BASE, "searcher=random", "searcher=tpe", "pruner=median", "hydra.launcher.slots=2", "sweep.trials=3")
    assert plan.stages[0].words == (DEMO, "budget=20step")
    assert plan.settings == SweepSettings(trials=3, seeds=[1, 2])
    assert plan.launcher["slots"] == 2
    assert set(OWN) >= {"sweep", "search", "searcher", "pruner", "hydra"}


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (("grid", "none"), (Grid, NoPruner)),
        (("random", "median"), (Random, Median)),
        (("tpe", "hyperband"), (TPE, Hyperband)),
        (("cmaes", "none"), (CMAES, NoPruner)),
    ],
)
def test_searcher_and_pruner_are_chosen_by_their_names(names: tuple[str, str], kinds: tuple[type, type]) -> None:
    swept = "1,2" if names[0] == "grid" else "interval(0,1)"
    words = (f"model.dropout={swept}", f"model.width={swept}", f"searcher={names[0]}", f"pruner={names[1]}")
    plan = read(DEMO, *words)
    assert (type(plan.searcher), type(plan.pruner)) == kinds
    assert plan.searched == (names[0] != "grid")


@pytest.mark.parametrize("path", sorted((CONF / "search").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_that_comes_with_etude_can_be_read_and_composes(path: Path) -> None:
    name = path.relative_to(CONF / "search").with_suffix("").as_posix()
    for searcher in ("grid", "random"):
        try:
            plan = read(
                f"search={name}", f"searcher={searcher}"
            )  # of the default experiment, or of those that it names
        except ConfigurationError:
            continue  # a range has no grid, stages have nothing else
        break
    assert plan.search == name
    assert any(stage.space.parameters or stage.words for stage in plan.stages)
    for stage in plan.stages:
        first = {
            one.name: one.domain.low if isinstance(one.domain, Range) else next(iter(one.domain.options))
            for one in stage.space.parameters
            if not one.when
        }
        (member, *_) = plan.members(PlannedTrial(0, stage, first))
        assert plan.compose(member).run.name == "000"


ADJUSTED = ["lora", "layer_decay", "gradual", "head", "bitfit"]
DEMOS = [experiment for experiment in EXPERIMENTS if experiment.endswith("/demo")]
QUICK = ("translation/demo", "classification/demo")


@pytest.mark.parametrize(
    ("experiment", "finetune"),
    [
        pytest.param(experiment, finetune, marks=() if experiment in quick else pytest.mark.slow)
        for finetune, quick in ((None, DEMOS), *((method, QUICK) for method in ADJUSTED))
        for experiment in EXPERIMENTS
    ],
)
def test_the_range_test_fits_every_experiment(experiment: str, finetune: str | None) -> None:
    betas = ["~optimizer.betas"] if "shakespeare" in experiment else []  # of AdamW
    chosen = ["optimizer=sgd", *betas] if finetune is None else [f"finetune={finetune}"]
    plan = read(f"experiment={experiment}", *NEEDED.get(experiment, ()), *chosen, "search=lr_range")
    (trial,) = plan.grid()
    (member,) = plan.members(trial)
    config = plan.compose(member)
    assert config.scheduler.values == {
        "_target_": "etude.optim.schedules.RangeTest",
        "warmup": "0step",
        "low": 1e-6,
        "final": 1.0,
    }
    assert list(config.callbacks) == ["divergence"]
    assert config.optimizer.arguments["lr"] == 1.0
    assert (config.log.every.amount, config.log.every.unit) == (1, "step")
    assert (config.limit.val, config.limit.test, config.stop.patience) == (32, 32, None)


def test_the_command_line_replaces_what_a_file_says() -> None:
    search = (DEMO, "search=learning_rate", "searcher=tpe")
    names = [one.name for one in read(*search).stages[0].space.parameters]
    assert names == ["optimizer.lr", "scheduler"]
    fixed = read(*search, "scheduler=constant").stages[0]
    assert [one.name for one in fixed.space.parameters] == ["optimizer.lr"]
    assert "scheduler=constant" in fixed.words
    swept = read(*search, "optimizer.lr=0.1,0.2").stages[0]
    assert [one.name for one in swept.space.parameters] == ["optimizer.lr", "scheduler"]
    assert swept.space.parameters[0].domain.grid() == [0.1, 0.2]


def test_a_users_own_folder_has_searches(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(
        "words: {experiment: translation/demo, budget: 20step, seed: 7}\n"
        "stages:\n"
        "  first: {words: {model.width: 16}, space: {model.dropout: [0.1, 0.2]}}\n"
        "  second: {words: {budget: 30step}, start: first, space: {optimizer.lr: [1e-3, 1e-2]}}\n"
    )
    plan = read_plan(["search=mine", "seed=3"], tmp_path)
    assert [(one.name, one.start) for one in plan.stages] == [("first", None), ("second", "first")]
    assert set(plan.stages[0].words) == {DEMO, "budget=20step", "model.width=16", "seed=3"}
    assert set(plan.stages[1].words) == {DEMO, "budget=30step", "seed=3"}
    assert plan.name.startswith("mine-")
    member = next(iter(plan.members(plan.grid()[5])))
    config = plan.compose(member)
    assert (config.seed, config.run.name, config.run.experiment) == (3, "005", f"translation/demo/{plan.name}")
    assert str(config.start) == f"translation/demo/{plan.name}/001"


# Trials and members


def test_stages_join_where_they_agree() -> None:
    plan = staged(
        pretrain=({"width": [16, 32], "seed": [1, 2]}, None),
        tune=({"width": [16, 32, 64], "lr": [0.1, 0.2]}, "pretrain"),
        tell=({"seed": [2]}, "tune"),
    )
    trials = plan.grid()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    tuned = [trial for trial in trials if trial.stage.name == "tune"]
    assert len(tuned) == 4 * 2
    for trial in trials:
        if trial.start is not None:
            assert trial.start.assignment.items() <= trial.assignment.items()
            assert trial.start.number < trial.number
            assert trial.start.stage.name == trial.stage.start
    assert [trial.assignment["width"] for trial in tuned] == [16, 16, 16, 16, 32, 32, 32, 32]
    last = [trial for trial in trials if trial.stage.name == "tell"]
    assert len(last) == 4
    assert {trial.assignment["seed"] for trial in last} == {2}


def test_stages_that_agree_in_nothing_have_no_trials() -> None:
    plan = staged(first=({"width": [16]}, None), second=({"width": [32]}, "first"))
    assert [trial.stage.name for trial in plan.grid()] == ["first"]


def test_each_seed_is_a_member_and_starts_from_the_one_with_its_seed() -> None:
    plan = staged([5, 7, 9], first=({"model.width": [16, 32]}, None), second=({"optimizer.lr": [0.1]}, "first"))
    members = [member for trial in plan.grid() for member in plan.members(trial)]
    assert [member.number for member in members] == list(range(12))
    assert [member.seed for member in members] == [5, 7, 9] * 4
    for member in members:
        assert f"seed={member.seed}" in member.words
        if member.start is None:
            assert not any(word.startswith("start=") for word in member.words)
        else:
            first = members[member.start]
            assert (first.seed, first.trial) == (member.seed, member.trial.start)
            assert member.words[-1] == f"start='translation/demo/staged/{member.start:03d}'" or (
                member.words[-1] == f"start=translation/demo/staged/{member.start:03d}"
            )
            assert not any(word.startswith("model.width=") for word in member.words), "its start has it"


def test_a_member_is_composed_with_its_words_in_its_folder() -> None:
    plan = read(*BASE)
    *_, last = plan.members(plan.grid()[1])
    config = plan.compose(last)
    assert (config.model.arguments["dropout"], config.seed, str(config.budget)) == (0.2, 2, "20step")
    assert (config.run.experiment, config.run.name) == (f"translation/demo/{plan.name}", "003")
    named = read(DEMO, "run.name=w${model.width}", "model.width=16,32")
    assert [plan.compose(*named.members(trial)).run.name for trial in named.grid()] == ["w16", "w32"]


def test_a_member_that_does_not_fit_is_named() -> None:
    plan = read(DEMO, "model.dropout=0.1,none_at_all", "sweep.seeds=[4]")
    with pytest.raises(ConfigurationError, match=r"in the member with model\.dropout=none_at_all seed=4") as caught:
        plan.compose(*plan.members(plan.grid()[1]))
    assert "\n" not in str(caught.value)


# Errors of one line


def refused(action: Callable[[], Any], *texts: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["seed=1,2", "sweep.trails=3"], ["sweep", "trails"]),
        (["seed=1,2", "sweep.seeds=[a]"], ["sweep", "seeds"]),
        (["seed=1,2", "searcher=annealing"], ["searcher=annealing does not exist"]),
        (["seed=1,2", "pruner=percentile"], ["pruner=percentile does not exist"]),
        (["seed=1,2", "searcher=tpe", "searcher.sigma=1"], ["searcher", "sigma"]),
        (["sweep.seeds=[1,2,1]"], ["sweep.seeds=[1, 2, 1]: a seed stands twice"]),
        (["sweep.seeds=[1,2]", "seed=3,4"], ["seed and sweep.seeds=[1, 2] both set the seed"]),
        (["model.dropout=interval(0,1)", "searcher=cmaes"], ["needs two ranges that always exist, not 1"]),
        (["model.dropout=interval(0,1)"], ["model.dropout of the search space is a range", "searcher=tpe"]),
        (["searcher=tpe"], ["there is nothing to search"]),
        (["pruner=median"], ["there is nothing to search"]),
        (["seed=1,2", "seed=3,4"], ["seed and seed of the search space both set seed"]),
    ],
    ids=str,
)
def test_words_that_make_no_plan_are_one_line(words: list[str], texts: list[str]) -> None:
    refused(lambda: read_plan([DEMO, *words]), *texts)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("stages: {a: {start: b}, b: {}}", [], "search.stages.a.start=b is not a stage before it"),
        ("stages: {a: {}}\nspace: {seed: [1]}", [], "search.space stands beside search.stages"),
        ("stages: {a: {space: {seed: []}}}", [], "search.stages.a.space.seed has no values"),
        ("stages: {a: {space: {seed: [1]}}, b: {}}", ["searcher=tpe"], "stages are tried by searcher=grid"),
        ("spaces: {seed: [1]}", [], "spaces"),
        ("space: {seed: {low: 3, high: 1}}", [], "search.space.seed goes from 3 to 1, which holds nothing"),
    ],
)
def test_a_file_that_makes_no_plan_is_one_line(tmp_path: Path, text: str, words: list[str], said: str) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(text)
    refused(lambda: read_plan([DEMO, "search=mine", *words], tmp_path), said)
