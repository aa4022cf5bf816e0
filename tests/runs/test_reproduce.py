"""`etude reproduce RUN`: the same to the last bit, or the first thing that is not, and what else has changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.atomic import write_json
from etude.checkpoints.checkpoint import read as read_checkpoint
from etude.checkpoints.checkpoint import remove, snapshot, write
from etude.cli.main import main
from etude.cli.run_commands import NOT_IDENTICAL
from etude.runs import drift, manifest_drift
from etude.runs.folder import FINISHED, MANIFEST
from etude.runs.reading import read_manifest
from etude.runs.record import RECORD, Event, Record, read
from tests.runs.conftest import TASKS
from tests.runs.killing import BATCH, EXACT
from tests.runs.test_same_command import touched

Train = Callable[..., Path]
Reproduce = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def train(overrides: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]) -> Train:
    """Trains a small run with dropout, a schedule and averaged weights, and returns its folder."""

    def trained(task: str, *more: str) -> Path:
        words = overrides(task, *EXACT, BATCH[task], "budget=6step", "validate.every=3step", "run.name=x", *more)
        assert main(["train", *words]) == 0
        return Path(capfd.readouterr().out.strip())

    return trained


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def run(shared: Path, train: Train, reproduce: Reproduce, tmp_path: Path) -> Path:
    """A run `x` of its own for a test, with its reproduction `x-reproduced-1` beside it, made once."""
    made = shared / "classification" / "demo"
    if not made.exists():
        code, found, said = reproduce(train("classification", f"paths.outputs={shared}"))
        assert (code, found["identical"]) == (0, True), said
    shutil.copytree(made, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs" / "x"


@pytest.fixture
def reproduce(capfd: pytest.CaptureFixture[str]) -> Reproduce:
    """Reproduces a run; returns the exit code, the object on stdout and the text on stderr."""

    def reproduced(run: Path, *more: str) -> tuple[int, dict[str, Any], str]:
        code = main(["reproduce", str(run), *more])
        out, said = capfd.readouterr()
        return code, json.loads(out) if out else {}, said

    return reproduced


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=pytest.mark.slow if task == "token_classification" else ())
        for task in TASKS
        if task != "classification"
    ],
)
def test_a_run_of_each_task_is_reproduced(train: Train, reproduce: Reproduce, task: str) -> None:
    run = train(task)
    shutil.rmtree(run.parents[2] / "cache", ignore_errors=True)  # the folder and the data are all that is needed
    code, found, said = reproduce(run)
    assert code == 0, said
    assert found["identical"] is True
    assert found["reproduction"] == f"{run}-reproduced-1"
    assert (found["first_line"], found["first_tensor"], found["scores"]) == (None, None, {})
    assert all(found[name]["same"] and not found[name]["differs"] for name in manifest_drift.SECTIONS)
    assert found["deterministic"] is True
    assert found["hardware"]["is"]["processor"]["threads"] == torch.get_num_threads()
    assert f"{run}-reproduced-1: identical, to the last bit" in said
    assert json.loads((Path(found["reproduction"]) / "reproduction.json").read_text()) == found
    assert (run.parents[1].parent / "last").resolve() == run  # a reproduction is not the last run


def test_threads_are_those_of_the_run_and_the_next_folder_is_free(train: Train, reproduce: Reproduce) -> None:
    run = train("classification", "trainer.threads=2", "budget=2step", "validate.every=2step")
    assert read_manifest(run).processor.threads == 2
    torch.set_num_threads(1)
    (run.parent / "x-reproduced-1").mkdir()
    code, found, said = reproduce(run)
    assert (code, found["identical"]) == (0, True), said
    assert found["reproduction"].endswith("x-reproduced-2")
    assert found["hardware"]["is"]["processor"]["threads"] == 2


def test_the_same_name_again_trains_nothing_and_compares(run: Path, reproduce: Reproduce) -> None:
    before = touched(run.parent / "x-reproduced-1")
    code, found, said = reproduce(run, "run.name=x-reproduced-1")
    assert (code, found["identical"]) == (0, True), said
    now = touched(run.parent / "x-reproduced-1")
    assert {Path(name).name for name in now if now[name] != before.get(name)} == {"reproduction.json", "x-reproduced-1"}


def test_what_was_recorded_otherwise_is_named(run: Path, reproduce: Reproduce) -> None:
    made_of = read_manifest(run).plain()
    made_of["packages"]["torch"] = "1.0.0"
    made_of["code"]["commit"] = "0" * 40
    made_of["processor"]["name"] = "Another [bold] CPU"
    made_of["environment"]["MKL_CBWR"] = "AVX2"
    write_json(run / MANIFEST, made_of)
    code, found, said = reproduce(run, "run.name=x-reproduced-1")
    assert (code, found["identical"]) == (0, True), said
    assert [name for name in manifest_drift.SECTIONS if not found[name]["same"]] == [
        "code",
        "packages",
        "hardware",
        "settings",
    ]
    assert found["packages"]["differs"].keys() == {"torch"}
    assert found["packages"]["differs"]["torch"].startswith("'1.0.0' -> ")
    assert found["code"]["differs"].keys() == {"commit"}
    assert found["hardware"]["differs"].keys() == {"processor.name"}
    assert found["settings"]["differs"] == {"environment.MKL_CBWR": "'AVX2' -> (none)"}
    assert "Another [bold] CPU" in said
    assert f"commit: '{'0' * 12}' -> " in said


def change_a_weight(run: Path, file: str) -> None:
    """Write the last checkpoint anew, with one number of it larger by 0.25."""
    path = drift.last_checkpoint(run)
    content = read_checkpoint(path, torch.device("cpu"))
    weights = content["state_dict"] if file == "model" else content["optimizer_states"][0]["state"][0]
    weights["exp_avg" if file == "training" else min(weights)].view(-1)[0] += 0.25
    remove(path)
    write(snapshot(content), path, {})


def change_a_loss(run: Path, line: int) -> None:
    """Write a line of the record anew, with another loss and the check that fits."""
    events = read(run / RECORD)
    event = events[line - 1]
    assert "train/loss" in event.values
    events[line - 1] = dataclasses.replace(event, values={**event.values, "train/loss": float("nan")})
    (run / RECORD).unlink()
    record = Record(run / RECORD)
    for event in events:
        record.append(event)
    record.close()


@pytest.mark.parametrize("file", ["model", "training"])
def test_the_first_tensor_that_differs_is_named(run: Path, reproduce: Reproduce, file: str) -> None:
    change_a_weight(run, file)
    code, found, said = reproduce(run, "run.name=x-reproduced-1")
    assert code == NOT_IDENTICAL
    assert (found["identical"], found["first_line"], found["scores"]) == (False, None, {})
    assert found["first_tensor"]["file"] == f"{file}.safetensors"
    assert found["first_tensor"]["largest_difference"] == pytest.approx(0.25)
    assert ("exp_avg" in found["first_tensor"]["tensor"]) == (file == "training")
    assert "x-reproduced-1: not identical\n" in said
    difference = found["first_tensor"]["largest_difference"]
    assert f"first {found['first_tensor']['tensor']} ({file}.safetensors), by {difference}" in " ".join(said.split())


def test_the_first_line_and_the_scores_that_differ_are_named(run: Path, reproduce: Reproduce) -> None:
    change_a_loss(run, 2)
    written = json.loads((run / FINISHED).read_text())
    accuracy, written["scores"]["test/accuracy"] = written["scores"]["test/accuracy"], 2.0
    write_json(run / FINISHED, written)
    code, found, said = reproduce(run, "run.name=x-reproduced-1")
    assert code == NOT_IDENTICAL
    assert (found["identical"], found["first_tensor"]) == (False, None)
    event = read(run / RECORD)[1]
    loss = read(run.parent / "x-reproduced-1" / RECORD)[1].values["train/loss"]
    assert found["first_line"] == {"line": 2, "step": event.step, "values": {"train/loss": ["nan", loss]}}
    assert found["scores"] == {"test/accuracy": [2.0, accuracy]}
    assert f"first at step {event.step} (line 2): train/loss nan -> {loss}" in " ".join(said.split())


def test_records_of_unequal_length_differ_at_the_first_missing_line(tmp_path: Path) -> None:
    for name, last in (("a", 3), ("b", 2)):
        (tmp_path / name).mkdir()
        record = Record(tmp_path / name / RECORD)
        for step in range(1, last + 1):
            record.append(Event(step, 10 * step, 1.0, {"train/loss": -0.0, "speed/tokens": float(last)}))
        record.close()
    assert drift.first_line(tmp_path / "a", tmp_path / "a") is None
    assert drift.first_line(tmp_path / "a", tmp_path / "b") == {
        "line": 3,
        "step": 3,
        "values": {"step": [3, None], "tokens": [30, None], "train/loss": [-0.0, None]},
    }


def test_what_cannot_be_reproduced_is_refused_in_a_line_and_nothing_is_made(run: Path, reproduce: Reproduce) -> None:
    before = touched(run.parent)

    def refused(code: int, *words: str, given: tuple[str, ...] = (), which: Path = run) -> None:
        found, out, said = reproduce(which, *given)
        assert (found, out) == (code, {}), said
        assert all(word in said.splitlines()[-1] for word in ("etude: error: ", *words)), said
        assert "Traceback" not in said
        assert len(touched(run.parent)) == len(before)

    refused(78, "no run", which=run.parent / "y")
    refused(78, "optimizer.lr=0.5", "run.name=NAME", given=("optimizer.lr=0.5",))
    refused(78, "data.max_length=5", given=("data.max_length=5",))
    for name in ("x", "..", "a/b"):
        refused(78, "run.name", given=(f"run.name={name}",))

    def refused_with(name: str, old: str, new: str, code: int, *words: str) -> None:
        content = (run / name).read_text()
        assert old in content
        (run / name).write_text(content.replace(old, new))
        refused(code, *words)
        (run / name).write_text(content)

    refused_with("config.yaml", "every: 3step", "every: 9s", 78, "validate.every=9s", "machine's speed")
    refused_with("config.yaml", "nodes: 1", "nodes: 2", 78, "on one machine")
    refused_with("manifest.json", "}", "", 65, "manifest.json is not JSON")
    refused_with("metrics.jsonl", "train/loss", "train/lost", 65, "line 1 is damaged")
    (run / "changes.jsonl").write_text('{"step": 1, "changed": {"budget": "\'1step\' -> \'6step\'"}}\n')
    before = touched(run.parent)
    refused(78, "was extended at step 1", "'1step' -> '6step'")
    (run / "changes.jsonl").unlink()
    (run / FINISHED).rename(run / "gone")
    before = touched(run.parent)
    refused(78, "is not finished", f"etude resume {run}")
    (run / "gone").rename(run / FINISHED)
    weights = run / "checkpoints" / "last" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = touched(run.parent)
    refused(65, "model.safetensors", "is broken")


def test_data_is_known_by_its_content_and_not_by_its_place(
    run: Path, reproduce: Reproduce, small_data: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.tsv"
    code, _, said = reproduce(run, f"data.corpus.train={moved}")
    assert (code, str(moved) in said) == (65, True)
    text = (small_data / "train.tsv").read_text()
    moved.write_text(text.replace("warm\n", "cold\n", 1))
    code, _, said = reproduce(run, f"data.corpus.train={moved}")
    assert code == 65
    assert "has changed since it was begun" in said.splitlines()[-1]
    assert not (run.parent / "x-reproduced-2").exists()
    moved.write_text(text)
    code, found, said = reproduce(run, f"data.corpus.train={moved}")
    assert (code, found.get("identical")) == (0, True), said
    assert found["data"]["same"]
    assert found["reproduction"].endswith("x-reproduced-2")


def test_a_run_that_was_continued_otherwise_says_so(
    run: Path, reproduce: Reproduce, capfd: pytest.CaptureFixture[str]
) -> None:
    made_of = read_manifest(run).plain()
    made_of["packages"]["numpy"] = "1.0.0"
    write_json(run / MANIFEST, made_of)
    (run / FINISHED).unlink()
    assert main(["resume", str(run), "trainer.workers=1"]) == 0
    assert "from step 6 on: numpy: '1.0.0' -> " in capfd.readouterr().err
    (run.parent / "x-reproduced-1" / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace(": x\n", ": y\n")
    )
    code, _, said = reproduce(run, "run.name=x-reproduced-1")
    assert code == 78  # another run has that name
    assert "run.name: 'y' -> 'x-reproduced-1'" in said
    shutil.rmtree(run.parent / "x-reproduced-1")
    code, found, said = reproduce(run)
    assert (code, found["identical"]) == (0, True), said
    assert [note["step"] for note in found["continued"]] == [6, 6]
    assert [list(note["changed"]) for note in found["continued"]] == [["trainer.workers"], ["numpy"]]
    assert "continued at step 6 with other settings, so bits may differ from there: trainer.workers: 0 -> 1" in said
    assert found["packages"]["differs"].keys() == {"numpy"}


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--help"]) == 0
    assert "usage: etude reproduce RUN [key=value…]" in capfd.readouterr().out
    assert main(["reproduce"]) == 78
