"""Every file of `conf/` composes and passes the check, and the check's own tables are about things that exist."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from omegaconf import DictConfig, OmegaConf

from etude.cli.command_table import COMMANDS
from etude.config.check import check, plain
from etude.config.compose import CONF, Composer, Composition
from etude.config.nodes import INJECTED
from etude.config.nodes import PARTS as GIVEN_TO_PARTS
from etude.config.schema import MAPPINGS, NODES, Config, Node
from etude.config.signatures import signature
from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.sweeps.sweep_plan import OWN

COMPOSER = Composer(CONF, "train")
EXPERIMENTS = COMPOSER.options("experiment")
FITTING = ("debug", "trainer", "logger", "callbacks", "optimizer", "scheduler", "finetune")


def parts_of(group: str) -> list[str]:
    return [f"{group}/{part}={name}" for part in COMPOSER.parts(group) for name in COMPOSER.options(f"{group}/{part}")]


PARTS = parts_of("model")
CHOICES = [f"{group}={name}" for group in FITTING for name in COMPOSER.options(group)]
OWN_DATA = {
    "data=parallel": ["experiment=null", "data.root=texts"],
    "data=directions": ["experiment=null", "data.root=texts", "data.pairs=[en-de,de-en]", "data.languages.de=deu_Latn"],
    "data=back_translated": ["experiment=null", "data.synthetic=a", "batch.shuffle=keyed", "batch.pool=9"],
    "data=tatoeba": ["experiment=null", "data.root=texts"],
    "data=pairs": ["experiment=summarization/scitldr", "data.train=a", "data.val=b", "data.source=article"],
    "data=scitldr": ["experiment=summarization/scitldr", "data.root=texts", "data.corpus.target=summary"],
    "data=multi30k": ["experiment=null", "data.root=texts", "data.corpus.splits.test=null"],
    "data=table": ["experiment=classification/demo", "data.train=a", "data.val=b", "data.pair=sentence2"],
    "data=table_several": [
        *("experiment=classification/minilm", "task=multilabel", "data.train=a", "data.val=b"),
        "validate.metric=val/micro_f1",
    ],
    "data=table_numbers": [
        *("experiment=classification/minilm", "task=regression", "data.train=a", "data.val=b"),
        "validate.metric=val/pearson",
    ],
    "data=lines": ["experiment=classification/demo", "data.train=a", "data.val=b"],
    "data=clinc150": ["experiment=classification/demo", "data.root=texts"],
    "data=squad": ["experiment=question_answering/squad", "data.root=texts"],
    "data=questions": ["experiment=question_answering/squad", "data.train=a", "data.val=b"],
    "data=tagged_words": [
        *("experiment=token_classification/demo", "data.train=a", "data.val=b", "data.scheme=iob2"),
    ],
    "data=text": ["experiment=masked_lm/demo", "data.train=a"],
    "data=documents": ["experiment=causal_lm/demo", "data.train=a"],
    "data=conversations": ["experiment=causal_lm/instruct", "model.name=a", "data.train=a", "data.max_length=64"],
    "data=shards": ["experiment=causal_lm/streamed", "data.root=shards"],
    "data=one_text": ["experiment=causal_lm/demo", "data.root=texts", "data.file=book.txt"],
}
NEEDED = {
    "masked_lm/text": ["data.train=a"],
    "causal_lm/streamed": ["data.root=shards"],
    "causal_lm/instruct": ["model.name=a", "data.train=a"],
    "translation/several_directions": ["data.root=a"],
    "translation/back_translated": ["data.synthetic=a"],
    **{f"{task}/adapt": ["model.name=a"] for task in ("causal_lm", "translation", "summarization")},
}
"""What an experiment on one's own files, or from somebody's weights, cannot do without."""


@functools.cache
def composed(*overrides: str) -> Composition:
    """A composition, which tests look at and do not change."""
    composition = COMPOSER.compose(COMPOSER.normalized(overrides))
    check(composition.tree, composition.overrides, composition.sources)
    return composition


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_passes(experiment: str) -> None:
    composition = composed(f"experiment={experiment}", *NEEDED.get(experiment, ()))
    root = Config.of(plain(composition.tree))
    assert root.budget.amount > 0
    assert (root.batch.tokens is None) != (root.batch.examples is None)
    first = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()[1]
    assert first.startswith(f"# etude train experiment={experiment}")


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_the_groups_that_fit_everything_passes(choice: str) -> None:
    composed(choice)


@pytest.mark.parametrize("experiment", ["translation/demo", "masked_lm/demo", "causal_lm/demo"])
@pytest.mark.parametrize("choice", PARTS)
def test_every_part_of_a_model_passes(choice: str, experiment: str) -> None:
    if choice.startswith("model/embeddings") and experiment != "translation/demo":
        pytest.skip("a model of one text has one matrix of embeddings")
    composed(f"experiment={experiment}", choice)


@pytest.mark.parametrize(
    "choice", [f"data/sampling={name}" for name in COMPOSER.options("data/sampling")] + parts_of("task")
)
def test_every_part_of_translation_passes(choice: str) -> None:
    composed("experiment=translation/demo", choice)


@pytest.mark.parametrize("data", ["text", "reviews_text"])
@pytest.mark.parametrize("masking", COMPOSER.options("data/masking"))
@pytest.mark.parametrize("decoding", ["none", "fill", "pseudo_log_likelihood"])
def test_every_masking_and_every_answer_passes(data: str, masking: str, decoding: str) -> None:
    own = ["data.train=a"] if data == "text" else []
    choices = [f"data={data}", f"data/masking={masking}", f"decoding={decoding}", *own]
    composed("experiment=masked_lm/demo", *choices)


MIXED = {
    "classification": ("classification/demo", "data.max_length=96"),
    "conversations": ("causal_lm/instruct", "model.name=a"),
    "directions": ("translation/demo", "data.of.pairs=[en-de,de-en]"),
}
"""The experiment that mixes a kind of data, and what has to be written besides; of others, their demo."""


@pytest.mark.parametrize("of", COMPOSER.options("data/of"))
def test_every_kind_of_data_can_be_mixed(of: str) -> None:
    experiment, *own = MIXED.get(of, (f"{of}/demo",))
    parts = "+data.parts={a: {_target_: etude.data.corpora.Reviews}}"
    choices = ("data=mixture", f"data/of={of}", parts, "+data.weights={a: 1}", "batch.shuffle=keyed", "batch.pool=9")
    tree = composed(f"experiment={experiment}", *choices, *own).tree
    assert plain(tree)["data"]["of"]["max_length"] == tree.data.max_length


def test_the_parts_of_a_model_are_groups_and_no_models() -> None:
    assert COMPOSER.parts("model") == ["embeddings", "feed_forward", "norm", "positions", "residual"]
    assert COMPOSER.parts("experiment") == []
    assert not [name for name in COMPOSER.options("model") if "/" in name]


@pytest.mark.parametrize("choice", OWN_DATA)
def test_ones_own_data_needs_nothing_but_its_files(choice: str) -> None:
    composed(choice, *OWN_DATA[choice])


def test_a_run_to_start_from_brings_the_name_of_the_model() -> None:
    composition = COMPOSER.compose(COMPOSER.normalized(["experiment=causal_lm/instruct", "data.train=a", "start=RUN"]))
    assert composition.config().model.arguments["name"] == "RUN"
    bare = COMPOSER.compose(COMPOSER.normalized(["experiment=causal_lm/instruct", "data.train=a"]))
    with pytest.raises(ConfigurationError, match=r"model\.name has no value"):
        bare.config()


def test_without_an_experiment_the_defaults_fit_together() -> None:
    composed("experiment=null")


def test_every_file_is_a_choice_or_a_root() -> None:
    roots = {command.root for command in COMMANDS.values() if command.root}
    groups = {*COMPOSER.groups(), "hydra", "dashboard"}
    for path in CONF.rglob("*.yaml"):
        inside = path.relative_to(CONF)
        assert inside.stem in roots if len(inside.parts) == 1 else inside.parts[0] in groups


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_function_that_takes_what_it_is_given(name: str) -> None:
    command = COMMANDS[name]
    found = signature(command.target.replace(":", "."))
    assert found is not None
    if command.browses:
        given = {"runs": {"filters", "outputs"}, "query": {"statement", "outputs"}, "schema": set()}[name]
        assert {key for key, parameter in found.parameters.items() if parameter.required} == given
        assert {key for key in command.options if key != "paths.outputs"} <= set(found.parameters)
        return
    of_many = command.root in ("sweep", "check")
    first = "words" if of_many else "config" if command.root is not None else "runs" if command.many else "run"
    assert next(iter(found.parameters)) == first
    given = {first, "lines", "out", *(["extra"] if of_many else [])}
    assert all(not parameter.required or key in given for key, parameter in found.parameters.items())


@pytest.mark.parametrize("root", sorted({command.root for command in COMMANDS.values() if command.root}))
def test_every_root_is_checked_like_training(root: str) -> None:
    composition = Composer(CONF, root).compose([])
    OmegaConf.set_struct(composition.tree, False)
    for key in {*OWN} - {"hydra"}:  # of a sweep, and none of its members
        composition.tree.pop(key, None)
    check(composition.tree, composition.overrides, composition.sources)


def test_values_keep_their_files_and_lines() -> None:
    composition = composed("experiment=translation/multi30k", "model.width=128")
    places = {source.shown for source in composition.sources}
    assert {"conf/train.yaml", "conf/data/parallel.yaml", "conf/experiment/translation/multi30k.yaml"} <= places
    assert isinstance(composition.tree, DictConfig)


def test_a_checked_configuration_survives_its_file(tmp_path: Path) -> None:
    values = plain(composed("data=parallel", "experiment=null", "data.root=texts").tree)
    OmegaConf.save(OmegaConf.create(values), tmp_path / "config.yaml")
    loaded = OmegaConf.load(tmp_path / "config.yaml")
    assert isinstance(loaded, DictConfig)
    check(loaded)
    assert plain(loaded) == values


def test_what_etude_gives_is_an_argument_of_what_it_is_given_to() -> None:
    values = [plain(composed(f"experiment={name}", *NEEDED.get(name, ())).tree) for name in EXPERIMENTS]
    for group in ("task", "model"):
        taken = [signature(value[group]["_target_"]) for value in values]
        names = {name for found in taken if found for name in found.parameters}
        assert INJECTED[group] & {"facts", "model", "optimizer", "scheduler", "decoding"} <= names


def test_what_a_model_gives_to_its_parts_is_an_argument_of_each() -> None:
    for choice in PARTS:
        values = plain(composed("experiment=translation/demo", choice).tree)
        for key, names in GIVEN_TO_PARTS.items():
            taken = signature(values["model"][key.removeprefix("model.")]["_target_"])
            assert taken is not None
            assert names <= taken.parameters.keys(), (choice, key)


def test_every_field_of_the_root_has_its_sentence() -> None:
    hints = get_type_hints(Config).values()
    sections: list[type] = [hint for hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)]
    for section in {Config, *sections} - {Duration, Node}:
        source = inspect.getsource(section)
        for name in get_type_hints(section):
            assert re.search(rf'^    {name}: [^\n]*\n    """[A-Z][^"]*\."""$', source, re.MULTILINE), (section, name)


def test_the_roots_groups_are_the_folders() -> None:
    assert {*NODES, *MAPPINGS} == {*COMPOSER.groups()} - {"experiment", "debug", "paths", *OWN}
