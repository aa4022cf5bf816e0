"""A sweep's folder says how each member went and which trial is best, and is found by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from etude.errors import ConfigurationError
from etude.runs.folder import CONFIGURATION
from etude.runs.lock import RunLock
from etude.runs.record import RECORD, Event, Record
from etude.sweeps.progress import STATE
from etude.sweeps.saved_sweep import SavedSweep, resolve_sweep
from etude.sweeps.sweep_documents import SWEEP, Attempt, CodeState, MemberDocument, SweepDocument, write_document
from etude.untrusted import BrokenFileError
from tests.sweeps.pretended import conclude

FINISHED, PRUNED = "the budget is spent", "pruned after 2 validations"


def begun(folder: Path, metric: str | None = "val/loss", mode: str = "min") -> SavedSweep:
    """The folder of a sweep without members."""
    folder.mkdir(parents=True)
    code = CodeState(commit=None, changes=None, sources={}, packages={})
    write_document(
        folder, SweepDocument(command=[], extra=None, identity={}, metric=metric, mode=mode, threads=1, code=code)
    )
    return SavedSweep.open(folder)


def add(
    sweep: SavedSweep, number: int, trial: int, *scores: float, ended: str | None = FINISHED, metric: str = "val/loss"
) -> Path:
    """Add a member with these validations."""
    folder = sweep.path / f"{number:03d}"
    folder.mkdir()
    document = MemberDocument(
        number=number,
        trial=trial,
        stage="",
        start=None,
        seed=None,
        assignment={},
        words=[],
        config={"validate": {"metric": metric, "mode": sweep.document.mode}},
        attempts=[Attempt(ended=1.0, code=1, reason="it fell over", step=0)],
    )
    write_document(folder, document)
    record = Record(folder / RECORD)
    for index, score in enumerate(scores, 1):
        record.append(Event(index, 0, float(index), {metric: score}))
    record.close()
    if ended is not None:
        conclude(folder, len(scores), ended, 0.0)
    return folder


def said(sweep: SavedSweep, **states: str) -> None:
    members = [{"number": int(number.lstrip("m")), "state": state} for number, state in states.items()]
    (sweep.path / STATE).write_text(json.dumps({"members": members}))


# Members


def test_members_are_in_order_with_their_scores(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep")
    for number in (2, 0, 1001, 1):
        add(sweep, number, number, 3.0, 1.0 + number, 2.0)
    (sweep.path / "notes").mkdir()
    assert [member.document.number for member in sweep.members] == [0, 1, 2, 1001]
    assert [member.progress.score for member in sweep.members] == [1.0, 2.0, 2.0, 2.0]
    assert {member.progress.step for member in sweep.members} == {3}
    assert {member.metric for member in sweep.members} == {"val/loss"}
    assert len(sweep.folders) == 4
    assert os.fspath(sweep) == str(sweep.path)


def test_the_files_of_a_run_say_more_than_the_sweep_does(tmp_path: Path) -> None:
    """The sweep may have been killed before it wrote how a member ended; and what it said to run runs no more."""
    sweep = begun(tmp_path / "sweep")
    for number in range(8):
        add(sweep, number, number, ended={0: FINISHED, 1: PRUNED}.get(number))
    for number in (2, 3):
        (sweep.path / f"{number:03d}" / CONFIGURATION).touch()
    said(
        sweep,
        m0="running",
        m1="running",
        m2="running",
        m3="waiting",
        m4="running",
        m5="failed",
        m6="skipped",
        m7="rejected",
    )
    states = ["finished", "pruned", "stopped", "stopped", "waiting", "failed", "skipped", "rejected"]
    assert [member.state for member in sweep.members] == states
    assert [member.document.number for member in sweep.finished] == [0, 1]
    assert not sweep.is_running
    with RunLock(sweep.path, "sweep"):
        assert sweep.is_running
        states[2] = states[4] = "running"
        assert [member.state for member in sweep.members] == states


def test_the_reason_is_that_of_the_last_attempt_unless_it_has_come_right(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep")
    add(sweep, 0, 0)
    add(sweep, 1, 1, ended=None)
    add(sweep, 2, 2, ended=None)
    said(sweep, m1="failed")
    assert [member.reason for member in sweep.members] == ["", "it fell over", "it fell over"]


def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match=SWEEP) as caught:
        SavedSweep.open(tmp_path)
    assert "\n" not in str(caught.value)


# Names


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder of three sweeps, of which two have one name."""
    for seconds, name in enumerate(("translation/demo/lr-1", "masked_lm/demo/lr-1", "translation/demo/width-2")):
        begun(tmp_path / "outputs" / name)
        os.utime(tmp_path / "outputs" / name / SWEEP, (1000 - seconds, 1000 - seconds))
    (tmp_path / "outputs" / "translation" / "demo" / "width-2" / "000").mkdir()
    return tmp_path / "outputs"


def test_a_sweep_is_found_by_folder_path_and_name(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = outputs / "translation" / "demo" / "width-2"
    assert resolve_sweep(str(folder), outputs) == folder
    assert resolve_sweep("translation/demo/width-2", outputs) == folder
    assert resolve_sweep("translation/demo/width-2/", outputs) == folder
    assert resolve_sweep("width-2", outputs) == folder
    monkeypatch.chdir(folder)
    assert resolve_sweep(".", outputs) == folder
    assert resolve_sweep("../lr-1", outputs.parent / "elsewhere") == outputs / "translation" / "demo" / "lr-1"


def test_last_is_the_sweep_that_was_begun_last(outputs: Path) -> None:
    assert resolve_sweep("last", outputs) == outputs / "translation" / "demo" / "lr-1"
    os.utime(outputs / "masked_lm" / "demo" / "lr-1" / SWEEP, (2000, 2000))
    (outputs / "last").symlink_to("translation/demo/width-2/000")  # the last run
    assert resolve_sweep("last", outputs) == outputs / "masked_lm" / "demo" / "lr-1"


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("lr-1", ["masked_lm/demo/lr-1", "translation/demo/lr-1"]),
        ("width", ["translation/demo/width-2"]),
        ("translation/demo/widht-2", ["translation/demo/width-2"]),
        ("translation/demo/width-2/000", ["translation/demo/width-2"]),
    ],
)
def test_a_name_that_says_no_sweep_or_several_names_the_nearest(outputs: Path, word: str, nearest: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_sweep(word, outputs)
    assert f"no sweep {word!r} here or in {outputs}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value).partition("nearest: ")[2] for name in nearest)


@pytest.mark.parametrize("word", ["last", "lr-1"])
def test_where_there_is_no_sweep_the_line_says_how_to_start_one(tmp_path: Path, word: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"no sweep '{word}', nor any other in .*; start one with: etude sweep"
    ):
        resolve_sweep(word, tmp_path / "outputs")
