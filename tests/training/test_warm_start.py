"""A run that starts from another takes its model, weights and tokenizer, and nothing that is not the model's."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.checkpoints.checkpoint import read_weights, snapshot, write
from etude.checkpoints.integrity import checkpoint_folder, read_manifest
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.runs.saved_run import SavedRun
from etude.training.build import Experiment, build
from etude.training.provenance import write_provenance
from etude.training.warm_start import describe_warm_start, load_warm_start, with_warm_start

SMALL = ["model.width=16", "model.heads=2", "model.feed_forward=24", "model.layers=3", "tokenizer.vocabulary=50"]
LABELS = {"two": ("cold", "warm"), "three": ("cold", "mild", "warm")}
TOKENS, MASK = torch.tensor([[1, 9, 7, 5, 2]]), torch.ones(1, 5, dtype=torch.bool)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables of texts of two or three classes, and with the runs that others start from.

    `masked_lm/demo/language` is the run of a masked language model, `classification/demo/classifier` that of a classifier.
    """
    folder = tmp_path_factory.mktemp("warm")
    for name, labels in LABELS.items():
        words = ["sun", "moon", "tree", "road"]
        rows = [(words[row % 4], words[(row + 1) % 4], labels[row % len(labels)]) for row in range(13)]
        (folder / f"{name}.tsv").write_text("text\tpair\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("\n\n".join(["sun moon tree road sun road"] * 11) + "\n")
    trained(folder / "outputs/masked_lm/demo/language", build(language(folder)), step=4)
    trained(folder / "outputs/classification/demo/classifier", build(classifier(folder, *SMALL)), step=3)
    return folder


def trained(folder: Path, experiment: Experiment, step: int) -> SavedRun:
    """Write what a run leaves: a checkpoint of weights that no other run begins with, besides the last one of zeros."""
    folder.mkdir(parents=True)
    run = SavedRun.begin(folder, experiment.config)
    write_provenance(run, experiment)
    own = experiment.task.state_dict()
    weights = {name: torch.rand_like(tensor) + step for name, tensor in own.items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
    for number, tensors in ((step, weights), (step + 5, zeros)):
        content = {"state_dict": tensors, "global_step": number}
        write(snapshot(content), checkpoint_folder(run.checkpoints, number), {})
    (run.checkpoints / "best").symlink_to(f"step-{step:08d}")
    return run


def composed(folder: Path, task: str, *words: str) -> Config:
    """Return a configuration as a command line gives it."""
    settings = ["budget=8step", "scheduler.warmup=1step", "trainer=cpu", "logger=none"]
    paths = [f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"]
    return compose(f"experiment={task}/demo", *settings, *paths, *words)


def language(folder: Path) -> Config:
    files = [f"data.{split}={folder}/text.txt" for split in ("train", "val")]
    return composed(folder, "masked_lm", "data=text", *files, "batch.tokens=60", *SMALL)


def classifier(folder: Path, *words: str, labels: str = "two") -> Config:
    files = [f"data.{split}={folder}/{labels}.tsv" for split in ("train", "val")]
    return composed(folder, "classification", "data=table", *files, "batch.examples=4", *words)


def started(folder: Path, *words: str, labels: str = "two", start: str = "masked_lm/demo/language") -> Experiment:
    """Build a classifier that starts from a run, before it is given any weights."""
    return build(with_warm_start(classifier(folder, f"start={start}", *words, labels=labels)))


def copied(experiment: Experiment) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in experiment.task.state_dict().items()}


@cache
def stored(run: Path) -> dict[str, Tensor]:
    return read_weights(SavedRun.open(run).checkpoint("best"))


def same(first: dict[str, Tensor], second: dict[str, Tensor], names: set[str]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in names)


# The configuration


def test_model_and_tokenizer_are_those_of_the_run_and_all_else_is_the_experiment_s(place: Path) -> None:
    config = classifier(place, "start=masked_lm/demo/language", "seed=5")
    before = copy.deepcopy(dict(config.values))
    warm = with_warm_start(config)
    run = place / "outputs/masked_lm/demo/language"
    first = SavedRun.open(run).config
    assert before["model"]["width"] != first.values["model"]["width"] == 16
    own = {"model": first.values["model"], "tokenizer": first.values["tokenizer"], "start": str(run.resolve())}
    assert warm.values == {**before, **own}
    assert (warm.overrides, warm.start) == (config.overrides, str(run.resolve()))
    assert config.values == before


def test_without_a_start_the_configuration_is_left(place: Path) -> None:
    config = classifier(place)
    assert with_warm_start(config) is config


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["model.dropout=0.25"], {"dropout": 0.25}),
        (["model.dropout=0.25", "++model.attention_dropout=0.5"], {"dropout": 0.25, "attention_dropout": 0.5}),
        (["task.head_dropout=0.25"], {}),
    ],
)
def test_keys_of_the_model_on_the_command_line_change_the_stored_one(
    place: Path, words: list[str], changed: dict[str, Any]
) -> None:
    warm = with_warm_start(classifier(place, "start=masked_lm/demo/language", *words))
    first = SavedRun.open(place / "outputs/masked_lm/demo/language").config
    assert warm.values["model"] == {**first.values["model"], **changed}


def test_a_key_that_the_command_line_deletes_is_left_out(place: Path) -> None:
    warm = with_warm_start(classifier(place, "start=masked_lm/demo/language", "~model.attention_dropout"))
    first = SavedRun.open(place / "outputs/masked_lm/demo/language").config.values["model"]
    assert (
        warm.values["model"] == {name: value for name, value in first.items() if name != "attention_dropout"} != first
    )


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("model=encoder", "model"),
        ("model/norm=rms", "model/norm"),
        ("tokenizer=bpe", "tokenizer"),
        ("tokenizer.vocabulary=60", "tokenizer.vocabulary"),
        ("+tokenizer.vocabulary=60", "tokenizer.vocabulary"),
    ],
)
def test_another_model_or_tokenizer_is_refused(place: Path, word: str, key: str) -> None:
    config = classifier(place, "start=masked_lm/demo/language")
    with pytest.raises(ConfigurationError) as caught:
        with_warm_start(config.updated({}, [*config.overrides, word]))
    assert str(caught.value) == f"start=masked_lm/demo/language brings its own {key}; leave that out (command line)"


def test_a_start_that_is_no_run_is_refused_with_the_nearest(place: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        with_warm_start(classifier(place, "start=masked_lm/demo/langage"))
    assert str(caught.value).startswith(
        f"no run 'masked_lm/demo/langage' here or in {place}/outputs; nearest: masked_lm/demo/language"
    )


def test_a_model_that_the_task_cannot_train_is_refused(place: Path, tmp_path: Path) -> None:
    """A translation's model and a classifier's configuration do not fit together."""
    translation = tmp_path / "translation"
    translation.mkdir()
    SavedRun.begin(translation, composed(place, "translation", "data=parallel", f"data.root={place}"))
    with pytest.raises(ConfigurationError, match=r"Classification takes .*Encoder"):
        with_warm_start(classifier(place, f"start={translation}"))


# The weights


def test_another_task_gets_the_whole_model_of_the_best_checkpoint_and_keeps_its_own_head(place: Path) -> None:
    experiment = started(place)
    before, weights = copied(experiment), stored(place / "outputs/masked_lm/demo/language")
    load_warm_start(experiment)
    now = experiment.task.state_dict()
    inside = {name for name in now if name.startswith("model.")}
    assert inside and inside == {name for name in weights if name.startswith("model.")}
    assert same(now, weights, inside) and not same(now, before, inside)
    assert now.keys() > inside and same(now, before, now.keys() - inside)


def test_the_same_task_gets_its_head_too(place: Path) -> None:
    experiment = started(place, start="classification/demo/classifier")
    load_warm_start(experiment)
    weights = stored(place / "outputs/classification/demo/classifier")
    assert experiment.task.state_dict().keys() == weights.keys()
    assert same(experiment.task.state_dict(), weights, {*weights})


def test_a_head_of_the_same_size_for_another_task_is_new(place: Path) -> None:
    experiment = started(place, start="classification/demo/classifier")
    run = SavedRun.open(place / "outputs/classification/demo/classifier")
    of_labels = run.config.updated({"task._target_": "etude.tasks.multilabel.Multilabel"})
    before = copied(experiment)
    load_warm_start(replace(experiment, warm_start=SavedRun(run.path, of_labels)))
    assert same(experiment.task.state_dict(), before, {"head.weight", "head.bias"})


def test_a_head_of_another_size_is_new(place: Path) -> None:
    experiment = started(place, start="classification/demo/classifier", labels="three")
    before, weights = copied(experiment), stored(place / "outputs/classification/demo/classifier")
    load_warm_start(experiment)
    now = experiment.task.state_dict()
    resized = {name for name in now if now[name].shape != weights[name].shape}
    assert resized and not any(name.startswith("model.") for name in resized)
    assert same(now, before, resized) and same(now, weights, now.keys() - resized)


def test_new_segments_change_no_single_text(place: Path) -> None:
    pairs, single = started(place, "data.pair=pair"), started(place)
    (segments,) = (name for name in pairs.task.state_dict() if name.endswith(".segments.weight"))
    assert pairs.task.state_dict()[segments].any()
    for experiment in (pairs, single):
        load_warm_start(experiment)
        experiment.task.eval()
    assert pairs.task.state_dict()[segments].shape == (2, 16) and not pairs.task.state_dict()[segments].any()
    with torch.no_grad():
        first, second = (experiment.task.model(TOKENS, MASK) for experiment in (pairs, single))
    assert torch.equal(first, second)


def test_segments_that_were_learnt_are_kept(place: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "pairs", build(classifier(place, "data.pair=pair", *SMALL)), step=2)
    experiment = started(place, "data.pair=pair", start=str(run.path))
    load_warm_start(experiment)
    assert same(experiment.task.state_dict(), stored(run.path), {*stored(run.path)})


def test_adapters_begin_anew_around_the_weights_that_were_loaded(place: Path) -> None:
    experiment = started(place, "finetune=lora", "finetune.rank=5")
    before, weights = copied(experiment), stored(place / "outputs/masked_lm/demo/language")
    adapters = {name for name in before if name.endswith((".lora_a", ".lora_b"))}
    load_warm_start(experiment)
    now = experiment.task.state_dict()
    inside = {name for name in now if name.startswith("model.")}
    assert adapters and same(now, before, adapters) and same(now, weights, inside - adapters)


def test_without_a_warm_start_nothing_is_loaded(place: Path) -> None:
    experiment = replace(started(place), warm_start=None)
    before = copied(experiment)
    load_warm_start(experiment)
    assert same(experiment.task.state_dict(), before, {*before})


def test_what_was_loaded_and_what_is_new_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    for start in ("masked_lm/demo/language", "classification/demo/classifier"):
        with caplog.at_level(logging.INFO, "etude.training.warm_start"):
            load_warm_start(started(place, start=start))
    outputs = (place / "outputs").resolve()
    assert [message for message in caplog.messages if message.startswith("starts from")] == [
        f"starts from step-00000004 of {outputs}/masked_lm/demo/language; new: head.bias, head.weight",
        f"starts from step-00000003 of {outputs}/classification/demo/classifier; new: nothing",
    ]


@pytest.mark.parametrize(
    ("word", "differing"),
    [
        ("model.feed_forward=31", r"\d+ tensors that are not the model's, such as \S+ \(\(\d*24\D.*, not \(31\D.*\)\)"),
        ("model.layers=2", r"\d+ tensors that are not the model's, such as \S+\.2\.\S+ \(\(.*\), not there\)"),
        ("model.layers=5", r"\d+ tensors that are not the model's, such as \S+\.3\.\S+ \(absent, not \(.*\)\)"),
    ],
)
def test_tensors_of_another_model_are_refused_and_nothing_is_loaded(place: Path, word: str, differing: str) -> None:
    experiment = started(place, word)
    before, run = copied(experiment), (place / "outputs/masked_lm/demo/language").resolve()
    advice = "leave out what changes the model; of a run with adapters, start from its export"
    with pytest.raises(ConfigurationError, match=rf"^start={run} has {differing}; {advice}$"):
        load_warm_start(experiment)
    assert same(experiment.task.state_dict(), before, {*before})


def test_adapters_of_the_run_are_tensors_of_another_model(place: Path, tmp_path: Path) -> None:
    words = ("finetune=lora", "finetune.rank=5")
    run = trained(tmp_path / "adapted", build(classifier(place, *words, *SMALL)), step=2)
    with pytest.raises(
        ConfigurationError, match=r"such as model\.\S+\.lora_a \(\(2, 5, 16\), not there\); .* its export$"
    ):
        load_warm_start(started(place, start=str(run.path)))


def test_a_run_without_a_checkpoint_is_refused(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    first = build(classifier(place, *SMALL))
    run = SavedRun.begin(folder, first.config)
    write_provenance(run, first)
    with pytest.raises(ConfigurationError) as caught:
        load_warm_start(started(place, start=str(folder)))
    assert str(caught.value) == f"{folder} has no checkpoint yet; first: etude resume {folder}"


# What is remembered


def test_a_warm_start_is_described_with_its_own_warm_start_in_turn(place: Path, tmp_path: Path) -> None:
    first = SavedRun.open(place / "outputs/masked_lm/demo/language")
    second = trained(tmp_path / "second", started(place), step=6)
    described = describe_warm_start(second)
    best = read_manifest(second.path / "checkpoints/step-00000006")
    assert described == {
        "run": str(second.path),
        "checkpoint": "step-00000006",
        "weights": best.files["model.safetensors"].sha256,
        "start": {**describe_warm_start(first), "run": str(first.path.resolve())},
    }
    assert described["start"]["start"] is None
