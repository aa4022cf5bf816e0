"""`etude reproduce` without its training: what is trained anew, from what, how the two are compared, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.calling_process import undisturbed
from etude.checkpoints.checkpoint import read, remove, snapshot, write
from etude.checkpoints.integrity import CheckpointBrokenError
from etude.commands.reproduce import reproduce
from etude.config.schema import Config
from etude.errors import ConfigurationError, DataError, EtudeError
from etude.report.page import REPORT
from etude.runs import drift, manifest_drift
from etude.runs.folder import (
    CHANGES,
    CHECKPOINTS,
    DATA,
    FACTS,
    FINISHED,
    MANIFEST,
    REPRODUCTION,
    TOKENIZER,
)
from etude.runs.reading import read_reproduction
from etude.runs.record import RECORD, Event, Record
from etude.runs.saved_run import SavedRun
from etude.untrusted import BrokenFileError
from tests.commands.test_evaluate_command import STEPS, drawn_run, small_classification

LOSSES = [2.5, 1.75, 1.25]
SCORES = {"test/loss": 1.5, "test/accuracy": 0.5}
LAST = STEPS[-1]

Alter = Callable[[Path], None]


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def recorded(run: Path, losses: list[float], seconds: float = 1.0) -> None:
    """Write a record anew, with a line for each loss."""
    (run / RECORD).unlink(missing_ok=True)
    record = Record(run / RECORD)
    for step, loss in enumerate(losses, start=1):
        record.append(Event(step, 100 * step, seconds * step, {"train/loss": loss, "speed/tokens_per_second": seconds}))
    record.close()


def heavier(run: Path, file: str = "model", by: float = 0.25) -> None:
    """Write the last checkpoint anew, with one number changed."""
    path = drift.last_checkpoint(run)
    content = read(path, torch.device("cpu"))
    weights = content["state_dict"]
    weights[min(weights)].view(-1)[0] += by
    remove(path)
    write(snapshot(content), path, {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `x` and its data."""
    folder = tmp_path_factory.mktemp("made")
    config = small_classification(folder, "run.name=x", "logger=wandb", "trainer.threads=1")
    run = drawn_run(folder / "runs" / "x", config).path
    recorded(run, LOSSES)
    conclusion = {"split": "test", "checkpoint": "step-00000003", "examples": 7, "intervals": {}, "signatures": {}}
    (run / FINISHED).write_text(
        json.dumps({**conclusion, "step": LAST, "ended": "the budget is spent", "scores": SCORES})
    )
    (run / REPORT).touch()
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> SavedRun:
    """A copy of the run for one test."""
    shutil.copytree(made / "runs", tmp_path / "runs", symlinks=True)
    return SavedRun.open(tmp_path / "runs" / "x")


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    with undisturbed():
        yield


class Training:
    """Stands for a training that comes to what the original came to, but for what is altered.

    Attributes:
        configs: The configurations of the trainings so far.
        inputs: What lay in the folder when the last one began, by name.
        alter: Changes the outcome.
    """

    def __init__(self, original: Path) -> None:
        self.original = original
        self.configs: list[Config] = []
        self.inputs: dict[str, bytes] = {}
        self.alter: Alter = lambda _: None

    def __call__(self, folder: Path, config: Config) -> SavedRun:
        self.configs.append(config)
        paths = (path for path in folder.rglob("*") if path.is_file())
        self.inputs = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        SavedRun.begin(folder, config)
        for name in (MANIFEST, FACTS, RECORD, FINISHED, REPORT):
            shutil.copyfile(self.original / name, folder / name)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        shutil.copytree(self.original / CHECKPOINTS, folder / CHECKPOINTS, symlinks=True)
        self.alter(folder)
        return SavedRun.open(folder)


@pytest.fixture
def training(run: SavedRun, monkeypatch: pytest.MonkeyPatch) -> Training:
    training = Training(run.path)
    monkeypatch.setattr("etude.commands.reproduce.execute", training)
    return training


def refusal(run: SavedRun, kind: type[EtudeError] = ConfigurationError, **asked: Any) -> str:
    """Return the line that a reproduction ends in; nothing is made."""
    before = sorted(run.path.parent.rglob("*"))
    with pytest.raises(kind) as error:
        reproduce(run, **asked)
    assert sorted(run.path.parent.rglob("*")) == before
    return str(error.value)


# Laws


def test_what_came_to_the_same_is_identical_whatever_time_it_took(run: SavedRun, training: Training) -> None:
    training.alter = lambda folder: recorded(folder, LOSSES, seconds=9.0)
    found = reproduce(run)
    assert found["identical"] is True
    assert (found["first_line"], found["first_tensor"], found["scores"]) == (None, None, {})
    assert all(found[name]["same"] and found[name]["differs"] == {} for name in manifest_drift.SECTIONS)
    assert found["run"] == str(run.path)
    assert found["reproduction"] == f"{run.path}-reproduced-1"
    assert found["continued"] == []


def test_a_reproduction_of_itself_says_what_it_is(run: SavedRun, training: Training) -> None:
    manifest = run.manifest.plain()
    found = reproduce(run)
    assert {name: found[name]["is"] for name in manifest_drift.SECTIONS} == {
        name: manifest_drift.section(manifest, name) for name in manifest_drift.SECTIONS
    }


@pytest.mark.parametrize("identical", [True, False])
def test_what_is_returned_is_what_is_stored(run: SavedRun, training: Training, identical: bool) -> None:
    training.alter = lambda folder: None if identical else heavier(folder)
    found = reproduce(run)
    folder = Path(found["reproduction"])
    assert json.loads((folder / REPRODUCTION).read_text()) == found
    assert read_reproduction(folder).plain() == found
    assert read_reproduction(folder).identical is identical


def worse_scores(folder: Path) -> None:
    edited(folder / FINISHED, scores={**SCORES, "test/accuracy": 0.25})


NEWER = {"step": [None, 4], "tokens": [None, 400], "train/loss": [None, 1.0]}
"""What the line of a step that only the reproduction has differs in."""


@pytest.mark.parametrize(
    ("alter", "differing"),
    [
        (
            lambda folder: recorded(folder, [2.5, 1.5, 1.25]),
            {"first_line": {"line": 2, "step": 2, "values": {"train/loss": [1.75, 1.5]}}},
        ),
        (lambda folder: recorded(folder, [*LOSSES, 1.0]), {"first_line": {"line": 4, "step": 4, "values": NEWER}}),
        (worse_scores, {"scores": {"test/accuracy": [0.5, 0.25]}}),
    ],
)
def test_any_difference_of_the_results_makes_them_not_identical_and_is_named(
    run: SavedRun, training: Training, alter: Alter, differing: Mapping[str, Any]
) -> None:
    training.alter = alter
    found = reproduce(run)
    assert found["identical"] is False
    results = {"first_line": None, "first_tensor": None, "scores": {}, **differing}
    assert {name: found[name] for name in results} == results


@pytest.mark.parametrize("by", [0.25, -1e-3])
def test_a_weight_that_differs_is_named_with_by_how_much(run: SavedRun, training: Training, by: float) -> None:
    training.alter = lambda folder: heavier(folder, by=by)
    found = reproduce(run)
    assert found["identical"] is False
    tensor = min(read(drift.last_checkpoint(run.path), torch.device("cpu"))["state_dict"])
    assert (found["first_tensor"]["file"], found["first_tensor"]["tensor"]) == ("model.safetensors", tensor)
    assert found["first_tensor"]["largest_difference"] == pytest.approx(abs(by), rel=1e-3)


def test_what_a_run_is_made_of_may_change_without_the_results(run: SavedRun, training: Training) -> None:
    made_of = json.loads((run.path / MANIFEST).read_text())
    made_of["packages"]["torch"], made_of["seed"], made_of["command"] = "1.0.0", 99, ["elsewhere"]
    training.alter = lambda folder: edited(folder / MANIFEST, **made_of)
    found = reproduce(run)
    assert found["identical"] is True
    assert [name for name in manifest_drift.SECTIONS if not found[name]["same"]] == ["packages"]
    assert found["packages"]["differs"] == {"torch": f"'{run.manifest.packages['torch']}' -> '1.0.0'"}


@pytest.mark.parametrize("deterministic", [True, False])
def test_whether_its_algorithms_were_deterministic_is_said(
    run: SavedRun, training: Training, deterministic: bool
) -> None:
    settings = {**run.manifest.plain()["torch"], "deterministic": deterministic}
    training.alter = lambda folder: edited(folder / MANIFEST, torch=settings)
    assert reproduce(run)["deterministic"] is deterministic


# What is trained


def test_it_is_the_same_configuration_with_the_threads_of_then_and_no_tracker(
    run: SavedRun, training: Training
) -> None:
    processor = json.loads((run.path / MANIFEST).read_text())["processor"]
    edited(run.path / MANIFEST, processor={**processor, "threads": 3})
    reproduce(SavedRun.open(run.path))
    (config,) = training.configs
    changed = run.config.changes_to(config)
    assert {key for key in changed if not key.startswith("logger")} == {"run.name", "trainer.threads"}
    assert changed["run.name"] == "'x' -> 'x-reproduced-1'"
    assert changed["trainer.threads"] == "1 -> 3"
    assert not config.logger and run.config.logger
    assert config.overrides == ()


def test_tokenizer_and_description_of_the_data_are_there_before_it_begins(run: SavedRun, training: Training) -> None:
    reproduce(run)
    originals = [run.path / DATA, *(path for path in (run.path / TOKENIZER).rglob("*") if path.is_file())]
    assert len(originals) > 1
    assert training.inputs == {path.relative_to(run.path).as_posix(): path.read_bytes() for path in originals}


def test_each_reproduction_has_a_folder_of_its_own_and_a_name_is_kept(run: SavedRun, training: Training) -> None:
    names = [Path(reproduce(run, name=name)["reproduction"]).name for name in (None, None, "again", 7)]
    assert names == ["x-reproduced-1", "x-reproduced-2", "again", "7"]
    assert [config.run.name for config in training.configs] == names
    assert [config.overrides for config in training.configs] == [(), (), ("run.name=again",), ("run.name=7",)]


def test_a_reproduction_that_is_complete_is_compared_and_not_trained_again(run: SavedRun, training: Training) -> None:
    first = reproduce(run, name="again")
    assert reproduce(run, name="again") == first
    assert len(training.configs) == 1
    (Path(first["reproduction"]) / REPORT).unlink()
    assert reproduce(run, name="again") == first
    assert len(training.configs) == 2


def test_files_that_have_moved_are_given_by_their_new_place(run: SavedRun, training: Training, made: Path) -> None:
    (moved := run.path.parents[1] / "moved.tsv").write_text((made / "train.tsv").read_text())
    changes = {"data.corpus.train": str(moved), "paths.cache": str(moved.parent / "cache")}
    assert reproduce(run, changes=changes)["identical"] is True
    (config,) = training.configs
    assert config.data.arguments["corpus"]["train"] == str(moved)
    assert config.paths.cache == moved.parent / "cache"
    assert config.overrides == tuple(f"{key}={value}" for key, value in changes.items())


# What is said


def test_the_verdict_is_shown(run: SavedRun, training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce(run)
    out, shown = capsys.readouterr()
    assert out == ""
    assert [line.split() for line in shown.splitlines()[-6:]] == [
        f"{run.path}-reproduced-1: identical, to the last bit".split(),
        *([name, "same"] for name in manifest_drift.SECTIONS),
    ]


def test_differences_are_shown_short_and_as_they_are_written(
    run: SavedRun, training: Training, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    manifest = json.loads((run.path / MANIFEST).read_text())
    before = "0123456789abcdef" * 4
    edited(run.path / MANIFEST, first_weights=before, platform="[bold]" + "y" * 300)

    def alter(folder: Path) -> None:
        edited(folder / MANIFEST, first_weights="f" * 64, platform=manifest["platform"])
        recorded(folder, [2.5, float("nan"), 1.25])
        worse_scores(folder)

    training.alter = alter
    found = reproduce(SavedRun.open(run.path))
    shown = {" ".join(line.split()) for line in capsys.readouterr().err.splitlines()}
    assert f"{run.path}-reproduced-1: not identical" in shown
    assert f"data first_weights: '{before[:12]}' -> '{'f' * 12}'" in shown
    assert f"hardware platform: '[bold]{'y' * 102}…" in shown
    assert "record first at step 2 (line 2): train/loss 1.75 -> nan" in shown
    assert "test/accuracy 0.5 -> 0.25" in shown
    assert found["data"]["differs"]["first_weights"] == f"'{before}' -> '{'f' * 64}'"  # whole where it is kept


def test_a_run_that_was_continued_otherwise_says_so(
    run: SavedRun, training: Training, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"step": 5, "changed": {"trainer.workers": "0 -> 1", "torch": "'1' -> '2'"}}
    (run.path / CHANGES).write_text(json.dumps(change) + "\n")
    assert reproduce(run)["continued"] == [change]
    assert (
        "continued at step 5 with other settings, so bits may differ from there: trainer.workers: 0 -> 1; torch: '1' -> '2'"
    ) in caplog.messages
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert "continued at step 5 with trainer.workers, torch" in lines


# What is refused


def test_a_run_that_is_not_finished_has_no_end(run: SavedRun, training: Training) -> None:
    (run.path / FINISHED).unlink()
    assert (
        refusal(run) == f"{run.path} is not finished, so there is no end to reproduce; first: etude resume {run.path}"
    )


@pytest.mark.parametrize("key", ["seed", "data.max_length", "paths", "trainer.threads", "data.corpora.train"])
def test_nothing_but_the_place_of_files_can_be_given(run: SavedRun, training: Training, key: str) -> None:
    assert refusal(run, changes={key: 5}) == (
        f"{key}=5: a reproduction has the run's own configuration; what can be given: run.name=NAME, and paths.… and "
        "data.corpus.… and data.parts.… and data.root… where files have moved (command line)"
    )


@pytest.mark.parametrize(("key", "length"), [("budget", "90s"), ("validate.every", "45s")])
def test_a_length_in_seconds_cannot_be_reproduced(run: SavedRun, training: Training, key: str, length: str) -> None:
    assert refusal(SavedRun(run.path, run.config.updated({key: length}))) == (
        f"{run.path} has {key}={length}: how many steps that is depends on the machine's speed, so it cannot be reproduced "
        "bit by bit; train anew with a length in steps, epochs or tokens"
    )


STARTS = "etude reproduce starts its processes itself, on one machine; call it by itself, once"


def test_several_machines_are_not_reproduced_on_one(run: SavedRun, training: Training) -> None:
    assert refusal(SavedRun(run.path, run.config.updated({"trainer.nodes": 2}))) == STARTS


def test_a_launcher_is_not_needed(run: SavedRun, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert refusal(run) == STARTS


def test_a_run_that_was_extended_is_not_one_that_had_that_budget(run: SavedRun, training: Training) -> None:
    (run.path / CHANGES).write_text('{"step": 4, "changed": {"budget": "\'4step\' -> \'8step\'"}}\n')
    assert refusal(run) == (
        f"{run.path} was extended at step 4 (budget: '4step' -> '8step'), so it is not the run that had that budget from "
        "the start; to compare with that one, train it anew: run.name=NAME"
    )


@pytest.mark.parametrize("name", ["", " ", ".x", "..", "a/b", "x", "/tmp"])
def test_a_name_is_that_of_a_folder_beside_the_run(run: SavedRun, training: Training, name: str) -> None:
    assert refusal(run, name=name) == (
        f"run.name={name!r} cannot name a folder beside {run.path}; write another word (command line)"
    )
    assert training.configs == []


def test_another_run_keeps_its_folder(run: SavedRun, training: Training) -> None:
    shutil.copytree(run.path, run.path.with_name("y"), symlinks=True)
    assert refusal(run, name="y") == (
        f"{run.path.with_name('y')} was begun with another configuration (run.name: 'x' -> 'y'); give this one a name of "
        "its own: run.name=NAME, or write what was begun"
    )


def test_a_damaged_record_is_found_before_training(run: SavedRun, training: Training) -> None:
    path = run.path / RECORD
    path.write_text(path.read_text().replace("1.75", "1.25"))
    assert refusal(run, BrokenFileError) == (
        f"{path}, line 2 is damaged: its check does not fit; put the file back from a copy, or start the run anew in "
        "another folder"
    )


def test_a_damaged_checkpoint_is_found_before_training(run: SavedRun, training: Training) -> None:
    folder = drift.last_checkpoint(run.path)
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-1])
    assert refusal(run, CheckpointBrokenError) == (
        f"the checkpoint {folder} is broken: model.safetensors: {size - 1} bytes, not the {size} that were written; use "
        "another one, `etude resume RUN` finds the newest whole one"
    )


def test_data_that_has_changed_is_found_before_training(run: SavedRun, training: Training, made: Path) -> None:
    (other := run.path.parents[1] / "other.tsv").write_text((made / "train.tsv").read_text().replace("star", "road"))
    said = refusal(run, DataError, changes={"data.corpus.train": str(other)})
    recorded_hash = run.data.fingerprint[:12]
    assert said.startswith(f"the data of {run.path} has changed since it was begun (fingerprint {recorded_hash} -> ")
    assert said.endswith("); put it back, or begin a new run: run.name=NAME")
