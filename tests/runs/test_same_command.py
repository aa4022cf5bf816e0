"""The same command again: it continues, says that nothing is left, or refuses; and a longer budget goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.cli.main import main
from tests.runs.killing import BATCH, EXACT, assert_same, end

TASK = "classification"


@pytest.fixture
def command(overrides: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """The words of `etude train` for a small run of a name."""

    def words(name: str, *more: str) -> list[str]:
        settings = (*EXACT, BATCH[TASK], "scheduler=constant", "scheduler.warmup=3step", "budget=6step", *more)
        return ["train", *overrides(TASK, *settings), f"run.name={name}"]

    return words


def touched(run: Path) -> dict[str, tuple[int, int]]:
    """When each file and folder of a run was last written, and its size."""
    found = {path: path.lstat() for path in (run, *run.rglob("*"))}
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def test_the_same_command_again(
    command: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "outputs" / TASK / "demo"
    assert main(command("x")) == 0
    run = folder / "x"
    assert capfd.readouterr().out.strip() == str(run)

    # Finished: it says so, and touches nothing.
    before = touched(run)
    for words in (command("x"), command("x", "trainer.workers=1"), ["resume", str(run)]):
        assert main(words) == 0
        said = capfd.readouterr()
        assert "is finished; nothing to do" in said.err
        assert said.out.strip() == str(run)
    assert touched(run) == before

    # Another experiment: refused with what differs, and how to begin it.
    assert main(command("x", "optimizer.lr=0.5")) == 78
    refusal = capfd.readouterr().err
    assert "optimizer.lr: 0.001 -> 0.5" in refusal
    assert "run.name=NAME" in refusal
    for budget in ("5step", "1epoch"):
        assert main(command("x", f"budget={budget}")) == 78
        assert f"budget=6step, which {budget} does not extend" in capfd.readouterr().err
    assert touched(run) == before

    # A longer budget: what was finished goes on, to the end of a run that had it from the start.
    # (The rate here does not depend on the budget, and the sixth step is validated, since it was once the last.)
    assert main(command("whole", "budget=12step", "validate.every=3step")) == 0
    assert main(command("short", "validate.every=3step")) == 0
    capfd.readouterr()
    assert main(command("short", "budget=12step", "validate.every=3step")) == 0
    assert "budget: '6step' -> '12step'" in (extension := capfd.readouterr().err)
    assert "follows the new one" in extension
    assert_same(end(folder / "short"), end(folder / "whole"))
    note = {"step": 6, "changed": {"budget": "'6step' -> '12step'"}}
    assert json.loads((folder / "short" / "changes.jsonl").read_text()) == note

    # Unfinished: the same command, and `resume last`, continue.
    expected = end(folder / "short")
    for words in (
        command("short", "budget=12step", "validate.every=3step"),
        ["resume", "last", f"paths.outputs={tmp_path}/outputs"],
    ):
        (folder / "short" / "finished.json").unlink()
        assert main(words) == 0
        assert capfd.readouterr().out.strip() == str(folder / "short")
        assert_same(end(folder / "short"), expected)


def test_changed_data_is_refused(
    command: Callable[..., list[str]], tmp_path: Path, small_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "train.tsv"
    changed.write_text((small_data / "train.tsv").read_text())
    words = command("x", f"data.train={changed}", "budget=2step")
    assert main(words) == 0
    run = Path(capfd.readouterr().out.strip())
    (run / "finished.json").unlink()
    changed.write_text(changed.read_text().replace("warm\n", "cold\n", 1))
    assert main(words) == 65
    said = capfd.readouterr().err
    assert "has changed since it was begun" in said
    assert "run.name=NAME" in said


def test_data_that_has_moved_is_gone_on_with_if_it_is_the_same(
    command: Callable[..., list[str]], tmp_path: Path, small_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there, other = (tmp_path / f"{place}.tsv" for place in ("here", "there", "other"))
    text = (small_data / "train.tsv").read_text()
    here.write_text(text)
    longer = ("budget=6step", "validate.every=3step")
    assert main(command("whole", f"data.train={here}", *longer)) == 0
    assert main(command("x", f"data.train={here}", "budget=3step", "validate.every=3step")) == 0
    run = tmp_path / "outputs" / TASK / "demo" / "x"
    here.rename(there)
    other.write_text(text.replace("warm\n", "cold\n", 1))
    before = touched(run)
    capfd.readouterr()

    refused = (command("x", f"data.train={other}", *longer), ["resume", str(run), f"data.corpus.train={other}"])
    for words in refused:
        assert main(words) == 78
        assert f"data.corpus.train: '{here}' -> '{other}'" in capfd.readouterr().err
    assert main(["resume", str(run), "data.corpus._target_=etude.data.corpora.Trec"]) == 78
    assert main(["resume", str(run), f"data.corpus.train={there}"]) == 0
    assert "is finished; nothing to do" in capfd.readouterr().err
    assert touched(run) == before

    assert main(["resume", str(run), f"data.corpus.train={there}", "budget=6step"]) == 0
    assert_same(end(run), end(run.parent / "whole"))
    noted = json.loads((run / "changes.jsonl").read_text())["changed"]
    assert noted["data.corpus.train"] == f"'{here}' -> '{there}'"
