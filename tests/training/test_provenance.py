"""What a run is made of is written once, before its first step, and told apart from what it is continued with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from etude.atomic import write_json
from etude.checkpoints.checkpoint import snapshot, write
from etude.checkpoints.integrity import checkpoint_folder
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import DataError, StorageError
from etude.hub import FolderFiles
from etude.runs.manifest import weights_hash
from etude.runs.reading import read_changes
from etude.runs.saved_run import SavedRun
from etude.training import provenance
from etude.training.build import Experiment, build
from etude.training.provenance import refuse_changed_data, write_provenance
from etude.training.warm_start import describe_warm_start
from etude.types import Facts

WRITTEN = {"data.json", "facts.json", "manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
ROWS = {"train": 13, "val": 5, "test": 3}


def composed(folder: Path, *words: str) -> Config:
    """Return the configuration of a classifier of a single layer, with 50 tokens, width 16 and batches of 4 examples."""
    for split, count in ROWS.items():
        texts = [f"{['sun', 'moon', 'tree', 'road'][number % 4]} {number}" for number in range(count)]
        lines = [f"{text}\t{'warm' if 'sun' in text else 'cold'}\n" for text in texts]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(lines))
    data = ["data=table", *(f"data.{split}={folder}/{split}.tsv" for split in ROWS)]
    sizes = ["model.width=16", "model.heads=2", "model.feed_forward=24", "model.layers=1", "tokenizer.vocabulary=50"]
    length = ["batch.examples=4", "budget=8step", "scheduler.warmup=1step"]
    machine = ["trainer=cpu", "logger=none", f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"]
    return compose("experiment=classification/demo", *data, *sizes, *length, *machine, *words)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build(composed(tmp_path_factory.mktemp("data"), "seed=3"))


@pytest.fixture
def run(tmp_path: Path, experiment: Experiment) -> SavedRun:
    """A run that was begun, and has nothing yet but its configuration."""
    return begun(tmp_path / "run", experiment)


def begun(folder: Path, experiment: Experiment) -> SavedRun:
    folder.mkdir()
    return SavedRun.begin(folder, experiment.config)


def content(run: SavedRun) -> dict[str, bytes]:
    files = (path for path in run.path.rglob("*") if path.is_file())
    named = {str(path.relative_to(run.path)): path.read_bytes() for path in files}
    return {name: text for name, text in named.items() if name not in ("config.yaml", "overrides.yaml")}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def with_other_data(described: dict[str, Any]) -> dict[str, Any]:
    return {**described, "fingerprint": "f" * 64}


# Written once


def test_what_is_written_is_what_the_experiment_is_made_of(run: SavedRun, experiment: Experiment) -> None:
    write_provenance(run, experiment)
    assert content(run).keys() == WRITTEN
    described = experiment.data.describe()
    assert read(run.path / "data.json") == described
    assert run.data.rows == ROWS
    assert run.tokenizer.fingerprint == experiment.data.tokenizer.fingerprint
    assert Facts.from_json(read(run.path / "facts.json")) == experiment.task.facts
    manifest = run.manifest
    assert manifest.command == ["etude", "train", *experiment.config.overrides]
    assert (manifest.seed, manifest.precision) == (3, experiment.config.precision)
    assert manifest.data.fingerprint == described["fingerprint"]
    assert manifest.first_weights == weights_hash(experiment.task)
    assert manifest.parameters.total == sum(parameter.numel() for parameter in experiment.task.parameters())
    assert manifest.start is None and not manifest.pretrained.plain()


def test_written_again_nothing_changes(run: SavedRun, experiment: Experiment) -> None:
    write_provenance(run, experiment)
    before = content(run)
    write_provenance(SavedRun.open(run.path), experiment)
    assert content(run) == before


@pytest.mark.parametrize("after", range(4))
def test_killed_between_any_two_files_it_is_completed(
    run: SavedRun, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = begun(tmp_path / "whole", experiment)
    write_provenance(whole, experiment)
    left = iter(range(after))

    def killed(path: Path, values: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write_json(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "write_json", killed)
        if after < 3:
            with pytest.raises(KeyboardInterrupt):
                write_provenance(run, experiment)
            assert not (run.path / "manifest.json").exists()
        else:
            write_provenance(run, experiment)
    write_provenance(SavedRun.open(run.path), experiment)
    assert content(run) == content(whole)


def test_a_secret_on_the_command_line_is_not_kept(run: SavedRun, experiment: Experiment) -> None:
    config = experiment.config.updated({}, ["seed=3", "+logger.api_key=abc"])
    write_provenance(run, replace(experiment, config=config))
    assert run.manifest.command == ["etude", "train", "seed=3"]


def test_the_skeleton_of_pretrained_weights_is_kept(
    run: SavedRun, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pretrained"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 16}')
    save_file({"embedding": torch.zeros(50, 16)}, folder / "model.safetensors")
    files = FolderFiles(folder)
    for name in ("config.json", "model.safetensors"):
        files.path(name)
    monkeypatch.setattr(experiment.task.model, "files", files, raising=False)
    write_provenance(run, experiment)
    skeleton = read(run.path / "pretrained.json")
    assert (skeleton["config"], skeleton["tensors"]) == ({"hidden_size": 16}, {"embedding": [50, 16]})
    assert run.manifest.pretrained.plain() == files.describe()


def test_a_warm_start_is_remembered(run: SavedRun, experiment: Experiment, tmp_path: Path) -> None:
    first = begun(tmp_path / "first", experiment)
    write_provenance(first, experiment)
    content = {"state_dict": experiment.task.state_dict(), "global_step": 6}
    write(snapshot(content), checkpoint_folder(first.checkpoints, 6), {})
    write_provenance(run, replace(experiment, warm_start=first))
    assert run.manifest.start is not None
    assert run.manifest.start.plain() == describe_warm_start(first)
    assert run.manifest.start.checkpoint == "step-00000006"


def test_a_folder_that_cannot_be_written_is_one_line(run: SavedRun, experiment: Experiment) -> None:
    (run.path / "tokenizer").write_text("no folder")
    with pytest.raises(StorageError) as caught:
        write_provenance(run, experiment)
    assert str(caught.value) == (
        f"cannot write {run.path}/tokenizer: File exists; see whether the disk is in order and run the same command again"
    )


# Continued, and reproduced


def test_another_machine_is_noted_and_the_manifest_stays(
    run: SavedRun, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    write_provenance(run, experiment)
    before = content(run)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    config = experiment.config.updated({"precision": "bf16-mixed"})
    write_provenance(SavedRun.open(run.path), replace(experiment, config=config))
    (change,) = read_changes(run.path)
    assert change.step == 0
    assert change.changed == {
        "precision": "'32-true' -> 'bf16-mixed'",
        "environment.OMP_NUM_THREADS": "'7' -> '5'",
    }
    assert {name: text for name, text in content(run).items() if name != "changes.jsonl"} == before


def test_weights_that_were_trained_since_are_no_change(
    run: SavedRun, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_provenance(run, experiment)
    monkeypatch.setattr("etude.runs.manifest.weights_hash", lambda module: "0" * 64)
    write_provenance(SavedRun.open(run.path), experiment)
    assert read_changes(run.path) == []


def test_a_reproduction_keeps_the_data_and_the_tokenizer_it_was_given_and_has_a_manifest_of_its_own(
    run: SavedRun, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_provenance(run, experiment)
    for name in ("manifest.json", "facts.json"):
        (run.path / name).unlink()
    given = {"data.json": {**read(run.path / "data.json"), "note": "given"}, "tokenizer/note.json": "given"}
    for name, values in given.items():
        (run.path / name).write_text(json.dumps(values))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    write_provenance(SavedRun.open(run.path), experiment)
    assert {name: read(run.path / name) for name in given} == given
    assert read(run.path / "manifest.json")["environment"]["OMP_NUM_THREADS"] == "5"
    assert content(run).keys() == {*WRITTEN, "tokenizer/note.json"}
    assert read_changes(run.path) == []


def test_other_data_is_refused_and_nothing_is_written(
    run: SavedRun, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_provenance(run, experiment)
    before, described = content(run), experiment.data.describe()
    monkeypatch.setattr(experiment.data, "describe", lambda: with_other_data(described))
    with pytest.raises(DataError) as caught:
        write_provenance(SavedRun.open(run.path), experiment)
    assert str(caught.value) == (
        f"the data of {run.path} has changed since it was begun (fingerprint {described['fingerprint'][:12]} -> "
        "ffffffffffff); put it back, or begin a new run: run.name=NAME"
    )
    assert content(run) == before


def test_the_fingerprint_alone_says_whether_data_has_changed(run: SavedRun, experiment: Experiment) -> None:
    write_provenance(run, experiment)
    fingerprint = run.data.fingerprint
    refuse_changed_data(run, {"fingerprint": fingerprint, "rows": {}})
    with pytest.raises(DataError, match="has changed"):
        refuse_changed_data(run, {**experiment.data.describe(), "fingerprint": f"{fingerprint[:-1]}?"})


# Said before the first step


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, provenance.__name__):
        yield caplog


def test_sizes_and_what_was_dropped_are_said_once(
    run: SavedRun, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    described = experiment.data.describe()
    dropped = {"train": {"repeated": 2, "empty": 1}, "val": {}}
    monkeypatch.setattr(experiment.data, "describe", lambda: {**described, "dropped": dropped})
    total = sum(parameter.numel() for parameter in experiment.task.parameters())
    write_provenance(run, experiment)
    write_provenance(SavedRun.open(run.path), experiment)
    assert said.messages == [
        f"rows {ROWS}, vocabulary 50",
        "train: 2 rows repeated",
        "train: 1 rows empty",
        f"{total:,} of {total:,} parameters train (100 %)",
        "4 steps an epoch",
    ]


def test_parameters_that_the_budget_does_not_reach_are_warned_of(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    """Of one layer and embeddings, 6 and 12 steps after the head: the embeddings begin with step 13 of 8."""
    experiment = build(composed(tmp_path, "finetune=gradual", "finetune.every=6step"))
    schedules = experiment.task.parameter_schedules
    late = [name for name, schedule in schedules.items() if schedule.first(experiment.data.clock) == 12]
    assert late and all("embedding" in name or "positions" in name for name in late)
    write_provenance(begun(tmp_path / "run", experiment), experiment)
    assert said.messages[-1] == (
        f"{len(late)} of the tensors that train would begin to after the budget of 8 steps, the last at step 13; "
        "a shorter finetune.every reaches them"
    )


@pytest.mark.parametrize(("budget", "warned"), [("12step", True), ("13step", False), ("1s", False)])
def test_a_step_of_the_budget_is_enough_to_be_reached(
    tmp_path: Path, said: pytest.LogCaptureFixture, budget: str, warned: bool
) -> None:
    warmup = "scheduler.warmup=0.5s" if budget == "1s" else "scheduler.warmup=1step"
    experiment = build(composed(tmp_path, "finetune=gradual", "finetune.every=6step", f"budget={budget}", warmup))
    write_provenance(begun(tmp_path / "run", experiment), experiment)
    assert any("after the budget" in message for message in said.messages) == warned
