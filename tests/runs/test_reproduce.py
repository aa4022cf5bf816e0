"""`etude reproduce RUN`: the same to the last bit, or the first thing that is not, and what else has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.cli.main import main
from etude.cli.on_runs import NOT_IDENTICAL
from etude.experiment import drift
from etude.experiment.record import RECORD, Record, read
from etude.store.checkpoint import read as read_checkpoint
from etude.store.checkpoint import remove, snapshot, write
from etude.store.folder import MADE_OF, write_json
from tests.runs.conftest import TASKS
from tests.runs.killing import BATCH, EXACT

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


@pytest.fixture
def reproduce(capfd: pytest.CaptureFixture[str]) -> Reproduce:
    """Reproduces a run; returns the exit code, the object on stdout and the text on stderr."""

    def reproduced(run: Path, *more: str) -> tuple[int, dict[str, Any], str]:
        code = main(["reproduce", str(run), *more])
        out, said = capfd.readouterr()
        return code, json.loads(out) if out else {}, said

    return reproduced


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_each_task_is_reproduced(train: Train, reproduce: Reproduce, task: str) -> None:
    run = train(task)
    shutil.rmtree(run.parents[2] / "cache", ignore_errors=True)  # the folder and the data are all that is needed
    code, found, said = reproduce(run)
    assert code == 0, said
    assert found["identical"] is True
    assert found["reproduction"] == f"{run}-reproduced-1"
    assert (found["first_line"], found["first_tensor"], found["scores"]) == (None, None, {})
    assert all(found[name]["same"] and not found[name]["differs"] for name in drift.SECTIONS)
    assert found["deterministic"] is True
    assert found["hardware"]["is"]["processor"]["threads"] == torch.get_num_threads()
    assert f"{run}-reproduced-1: identical, to the last bit" in " ".join(said.split())
    assert json.loads((Path(found["reproduction"]) / "reproduction.json").read_text()) == found
    assert (run.parents[1].parent / "last").resolve() == run  # a reproduction is not the last run


def test_threads_are_those_of_the_run_and_the_next_folder_is_free(train: Train, reproduce: Reproduce) -> None:
    run = train("classification", "trainer.threads=2")
    assert drift.read_manifest(run)["processor"]["threads"] == 2
    torch.set_num_threads(1)
    (run.parent / "x-reproduced-1").mkdir()
    code, found, said = reproduce(run)
    assert code == 0, said
    assert found["reproduction"].endswith("x-reproduced-2")
    assert found["hardware"]["is"]["processor"]["threads"] == 2


def test_what_was_recorded_otherwise_is_named(train: Train, reproduce: Reproduce) -> None:
    run = train("classification")
    made_of = drift.read_manifest(run)
    made_of["packages"]["torch"] = "1.0.0"
    made_of["code"]["commit"] = "0" * 40
    made_of["processor"]["name"] = "Another [bold] CPU"
    made_of["environment"]["MKL_CBWR"] = "AVX2"
    write_json(run / MADE_OF, made_of)
    code, found, said = reproduce(run)
    assert code == 0
    assert found["identical"] is True
    assert [name for name in drift.SECTIONS if not found[name]["same"]] == ["code", "packages", "hardware", "settings"]
    assert found["packages"]["differs"]["packages.torch"].startswith("'1.0.0' -> ")
    assert set(found["code"]["differs"]) == {"code.commit"}
    assert set(found["hardware"]["differs"]) == {"processor.name"}
    assert found["settings"]["differs"] == {"environment.MKL_CBWR": "'AVX2' -> (none)"}
    assert "Another [bold] CPU" in said


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
    (run / RECORD).unlink()
    record = Record(run / RECORD)
    for number, event in enumerate(events, start=1):
        if number == line:
            object.__setattr__(event, "values", {**event.values, "train/loss": float("nan")})
        record.append(event)
    record.close()


def test_the_first_difference_is_named(train: Train, reproduce: Reproduce) -> None:
    run = train("classification")
    change_a_weight(run, "training")
    code, found, said = reproduce(run)
    assert code == NOT_IDENTICAL
    assert found["identical"] is False
    assert found["first_tensor"]["file"] == "training.safetensors"
    assert "exp_avg" in found["first_tensor"]["tensor"]
    assert found["first_tensor"]["largest_difference"] == pytest.approx(0.25)
    assert found["first_line"] is None
    assert ": not identical" in " ".join(said.split())

    # The same name again: nothing is trained, what is there is compared.
    again = Path(found["reproduction"])
    change_a_weight(run, "model")
    change_a_loss(run, 4)
    written = json.loads((run / "finished.json").read_text())
    written["scores"]["test/accuracy"] = 2.0
    write_json(run / "finished.json", written)
    before = (again / RECORD).stat().st_mtime_ns
    code, found, said = reproduce(run, f"run.name={again.name}")
    assert code == NOT_IDENTICAL
    assert (again / RECORD).stat().st_mtime_ns == before
    assert found["first_tensor"]["file"] == "model.safetensors"
    assert found["first_tensor"]["largest_difference"] == pytest.approx(0.25)
    line = found["first_line"]
    loss = read(again / RECORD)[3].values["train/loss"]
    assert line == {"line": 4, "step": read(again / RECORD)[3].step, "values": {"train/loss": ["nan", loss]}}
    assert found["scores"]["test/accuracy"][0] == 2.0
    assert f"first at step {line['step']} (line 4): train/loss nan -> " in " ".join(said.split())


def test_records_of_unequal_length_differ_at_the_first_missing_line(tmp_path: Path) -> None:
    events = []
    for name, last in (("a", 3), ("b", 2)):
        (tmp_path / name).mkdir()
        record = Record(tmp_path / name / RECORD)
        for step in range(1, last + 1):
            events.append(event := drift_event(step))
            record.append(event)
        record.close()
    assert drift.first_line(tmp_path / "a", tmp_path / "a") is None
    assert drift.first_line(tmp_path / "a", tmp_path / "b") == {
        "line": 3,
        "step": 3,
        "values": {"step": [3, None], "tokens": [30, None], "train/loss": [-0.0, None]},
    }


def drift_event(step: int) -> Any:
    from etude.experiment.record import Event

    return Event(step, 10 * step, float(step), {"train/loss": -0.0, "speed/tokens": 1.0 * step})


def test_what_cannot_be_reproduced_is_refused_in_a_line_and_nothing_is_made(
    train: Train, reproduce: Reproduce, small_data: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "train.tsv"
    changed.write_text((small_data / "train.tsv").read_text())
    run = train("classification", f"data.train={changed}", "budget=2step", "validate.every=2step")
    folders = sorted(run.parent.iterdir())

    def refused(code: int, *words: str, given: tuple[str, ...] = (), which: Path = run) -> None:
        found, out, said = reproduce(which, *given)
        assert (found, out) == (code, {}), said
        assert all(word in said.splitlines()[-1] for word in ("etude: error: ", *words)), said
        assert "Traceback" not in said
        assert sorted(run.parent.iterdir()) == folders

    refused(78, "no run", which=run.parent / "y")
    refused(78, "optimizer.lr=0.5", "run.name=NAME", given=("optimizer.lr=0.5",))
    refused(78, "data.max_length=5", given=("data.max_length=5",))
    for name in ("x", "..", "a/b"):
        refused(78, "run.name", given=(f"run.name={name}",))

    # Data: what counts is its content, not its place.
    text = changed.read_text()
    changed.write_text(text.replace("warm\n", "cold\n", 1))
    refused(65, "has changed since it was begun")
    changed.unlink()
    refused(65, str(changed))
    elsewhere = tmp_path / "elsewhere.tsv"
    elsewhere.write_text(text)
    code, found, said = reproduce(run, f"data.corpus.train={elsewhere}", "run.name=moved")
    assert (code, found.get("identical")) == (0, True), said
    assert found["data"]["same"]
    changed.write_text(text)
    folders = sorted(run.parent.iterdir())

    for notes in ('{"step": 1, "changed": {"budget": "\'1step\' -> \'2step\'"}}\n',):
        (run / "changes.jsonl").write_text(notes)
        refused(78, "was extended at step 1", "'1step' -> '2step'")
    (run / "changes.jsonl").unlink()
    finished = (run / "finished.json").read_text()
    (run / "finished.json").unlink()
    refused(78, "is not finished", f"etude resume {run}")
    (run / "finished.json").write_text(finished)
    weights = run / "checkpoints" / "last" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(74, "model.safetensors", "is broken")


def test_a_run_that_was_continued_otherwise_says_so(train: Train, reproduce: Reproduce) -> None:
    run = train("classification", "budget=2step", "validate.every=2step")
    made_of = drift.read_manifest(run)
    made_of["packages"]["numpy"] = "1.0.0"
    write_json(run / MADE_OF, made_of)
    (run / "finished.json").unlink()
    assert main(["resume", str(run), "trainer.workers=1"]) == 0
    code, found, said = reproduce(run)
    assert code == 0, said
    changed = [note["changed"] for note in found["continued"]]
    assert changed[0] == {"trainer.workers": "0 -> 1"}
    assert list(changed[1]) == ["packages.numpy"]
    assert [note["step"] for note in found["continued"]] == [2, 2]
    assert "continued at step 2 with other settings" in said
    assert found["packages"]["differs"].keys() == {"packages.numpy"}


def test_lengths_in_seconds_cannot_be_reproduced(train: Train, reproduce: Reproduce) -> None:
    run = train("classification", "budget=1s", "validate.every=1epoch", "scheduler.warmup=0s")
    code, _, said = reproduce(run)
    assert code == 78
    assert "budget=1s" in said.splitlines()[-1]


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--help"]) == 0
    assert "usage: etude reproduce RUN [key=value…]" in capfd.readouterr().out
    assert main(["reproduce"]) == 78
