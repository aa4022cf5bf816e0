"""A study goes on after a kill at any write as if nothing had been, and other programs read its journal."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import wsgi  # type: ignore[import-untyped]

from etude.errors import DataError, StorageError
from etude.sweeps.searchers import CMAES, TPE, Grid, Random
from etude.sweeps.space import Assignment, Label
from etude.sweeps.space_reading import read_space
from etude.sweeps.study import JOURNAL, NUMBER, Study, StudyReader, Trial

SPACE = read_space(
    {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "width": {"low": 2, "high": 9},
        "scheduler": ["cosine", "constant"],
        "warmup": {"values": [1, 2], "when": {"scheduler": "cosine"}},
    },
    "space",
)
SEARCHERS: list[Random | TPE | CMAES] = [Random(), TPE(startup=3), CMAES(population=4)]


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, and no power is lost: nothing has to reach a disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def opened(folder: Path, mode: str = "min", pruner: BasePruner | None = None) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    return Study(folder, "a sweep", mode, pruner or NopPruner())


def score(assignment: Assignment, index: int) -> float:
    """The score of a validation, better with each."""
    return abs(float(assignment["lr"] or 0) * 1000 - 1) + int(assignment["width"] or 0) / 10 + 1 / index


def work(study: Study, searcher: Random | TPE | CMAES, trials: int) -> None:
    """Take up what is there, and try so many in all, as one worker does."""
    for number in range(trials):
        known = study.trials
        trial = known[number] if number < len(known) else study.ask(SPACE, searcher, seed=3)
        if trial.state != "running":
            continue
        for index in (1, 2):
            if study.report(number, index, score(trial.assignment, index)):
                study.tell(number, "pruned", score(trial.assignment, index))
                break
        else:
            study.tell(number, "finished", score(trial.assignment, 2))


def ends(journal: bytes) -> list[int]:
    """Where the lines of a journal end, from 0."""
    return [0, *(place + 1 for place, byte in enumerate(journal) if byte == ord("\n"))]


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda one: type(one).__name__)
def test_a_search_that_is_killed_between_any_two_writes_tries_the_same(
    tmp_path: Path, searcher: Random | TPE | CMAES
) -> None:
    straight = opened(tmp_path / "straight", pruner=MedianPruner(2, 0))
    work(straight, searcher, 6)
    assert {one.state for one in straight.trials} == {"finished", "pruned"}
    journal = straight.path.read_bytes()
    assert len(ends(journal)) > 20
    for end in ends(journal):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(journal[:end])
        again = opened(folder, pruner=MedianPruner(2, 0))
        work(again, searcher, 6)
        assert repr(again.trials) == repr(straight.trials), f"after {end} bytes"


def test_a_line_that_a_killed_process_began_is_as_if_it_had_not(tmp_path: Path) -> None:
    work(opened(tmp_path), Random(), 4)
    journal = (tmp_path / JOURNAL).read_bytes()
    for begin, end in pairwise(ends(journal)[1:]):
        for cut in (begin + 1, (begin + end) // 2, end - 1):
            (tmp_path / JOURNAL).write_bytes(journal[:cut])
            opened(tmp_path)
            mended = (tmp_path / JOURNAL).read_bytes()
            assert mended[:begin] == journal[:begin]
            assert all(json.loads(line)["op_code"] == 0 for line in mended[begin:].splitlines())  # it is opened again
    (tmp_path / JOURNAL).write_bytes(journal[:20])
    assert opened(tmp_path).trials == []


def test_a_trial_is_stored_whole_in_one_line(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for number in range(4):
        before = study.path.read_bytes()
        study.ask(SPACE, Random(), seed=number)
        assert study.path.read_bytes().startswith(before)
        assert study.path.read_bytes().count(b"\n") == before.count(b"\n") + 1


def test_the_lock_of_a_killed_process_is_taken_away(tmp_path: Path) -> None:
    opened(tmp_path).ask(SPACE, Random(), 1)
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    assert len(opened(tmp_path).trials) == 1
    opened(tmp_path).ask(SPACE, Random(), 1)
    assert not (tmp_path / f"{JOURNAL}.lock").is_symlink()


# Labels


LABELS: list[list[Label]] = [
    [1, 2],
    [1.0, 2.0],
    [1.5, "1.5"],
    [True, False],
    [None, "null", ""],
    ["1", "true", "a b'\"\\", "Größe"],
    [None, True, 2, 3.0, "4"],
    [10**15, -(10**9), 1e-300, 0.1],
]


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("again", [False, True])
def test_labels_come_back_with_their_type(tmp_path: Path, labels: list[Label], again: bool) -> None:
    space = read_space({"a": labels}, "space")
    study = opened(tmp_path)
    for number, assignment in enumerate(space.grid()):
        stored = study.add(number, space, assignment)
        assert stored == Trial(number, assignment, "running", None)
        if again:
            study.tell(number, "failed")
            study.again(number)
    found = [one.assignment["a"] for one in opened(tmp_path).trials]
    assert [(type(one), one) for one in found] == [(type(one), one) for one in labels]


def test_labels_that_are_equal_in_python_come_back_as_the_grid_has_them(tmp_path: Path) -> None:
    space = read_space({"a": [1, 1.0, True, "1", None]}, "space")
    study = opened(tmp_path)
    for number, assignment in enumerate(space.grid()):
        study.add(number, space, assignment)
    assert [repr(one.assignment) for one in opened(tmp_path).trials] == [repr(one) for one in space.grid()]


@pytest.mark.parametrize(
    "written",
    [
        {"low": 1, "high": 3},
        {"low": 1.0, "high": 3.0, "step": 0.5},
        {"low": 0.1, "high": 0.3, "step": 0.1},
        {"low": 0.1, "high": 0.35, "step": 0.1},
        {"low": 1, "high": 8, "step": 3},
        {"low": 1, "high": 2, "step": 5},
    ],
    ids=str,
)
def test_every_number_of_a_range_can_be_stored(
    tmp_path: Path, written: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    space = read_space({"a": written}, "space")
    study = opened(tmp_path)
    for number, assignment in enumerate(space.grid()):
        study.add(number, space, assignment)
    assert [repr(one.assignment) for one in opened(tmp_path).trials] == [repr(one) for one in space.grid()]
    assert not recwarn.list, recwarn.list[0].message


def test_a_trial_that_is_drawn_comes_back_as_it_was(tmp_path: Path) -> None:
    study = opened(tmp_path)
    drawn = [study.ask(SPACE, TPE(startup=2), 5) for _ in range(8)]
    assert repr(opened(tmp_path).trials) == repr(drawn)
    assert [one.number for one in drawn] == list(range(8))
    assert all(("warmup" in one.assignment) == (one.assignment["scheduler"] == "cosine") for one in drawn)


# What becomes of trials


def test_a_trial_that_failed_is_tried_again_under_its_number(tmp_path: Path) -> None:
    study = opened(tmp_path)
    first, second = (study.ask(SPACE, Random(), 1) for _ in range(2))
    study.tell(0, "failed")
    study.again(0)
    study.again(1)  # which has not failed
    assert [(one.number, one.state) for one in study.trials] == [(0, "running"), (1, "running")]
    assert study.trials[0].assignment == first.assignment
    assert study.ask(SPACE, Random(), 1).number == 2
    study.tell(0, "finished", 0.5)
    assert [(one.number, one.state, one.value) for one in opened(tmp_path).trials] == [
        (0, "finished", 0.5),
        (1, "running", None),
        (2, "running", None),
    ]
    assert opened(tmp_path).trials[1].assignment == second.assignment


def test_a_failed_trial_does_not_change_what_is_drawn_next(tmp_path: Path) -> None:
    """Its number counts once, however often it was tried."""
    often, once = opened(tmp_path / "often"), opened(tmp_path / "once")
    for study in (often, once):
        study.ask(SPACE, Random(), 1)
    for _ in range(3):
        often.tell(0, "failed")
        often.again(0)
    assert often.ask(SPACE, Random(), 1) == once.ask(SPACE, Random(), 1)


def test_a_trial_that_has_ended_stays_as_it_is(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.ask(SPACE, Random(), 1)
    study.tell(0, "finished", 0.25)
    written = study.path.read_bytes()
    study.tell(0, "failed")
    study.tell(0, "finished", 3.0)
    assert not study.report(0, 7, 0.1)
    assert (study.trials[0].state, study.trials[0].value) == ("finished", 0.25)
    assert study.path.read_bytes() == written


def test_a_report_is_stored_once(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.ask(SPACE, Random(), 1)
    study.report(0, 1, 2.0)
    written = study.path.read_bytes()
    study.report(0, 1, 3.0)
    assert study.path.read_bytes() == written
    study.tell(0, "pruned", 9.0)
    assert study.trials[0].value == 2.0


def test_a_pruned_trial_without_reports_has_its_score(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.ask(SPACE, Random(), 1)
    study.tell(0, "pruned", 9.0)
    assert opened(tmp_path).trials[0] == Trial(0, study.trials[0].assignment, "pruned", 9.0)


@pytest.mark.parametrize(
    ("mode", "pruned"), [("min", [False, False, True, False]), ("max", [False, False, False, True])]
)
def test_what_is_worse_than_the_others_ends(tmp_path: Path, mode: str, pruned: list[bool]) -> None:
    study = opened(tmp_path, mode, MedianPruner(n_startup_trials=2, n_warmup_steps=0))
    said = []
    for number, value in enumerate((1.0, 2.0, 5.0, 0.5)):
        study.ask(SPACE, Random(), 1)
        said.append(study.report(number, 1, value))
        study.tell(number, "finished", value)
    assert said == pruned


def test_importances_say_which_parameter_matters(tmp_path: Path) -> None:
    space = read_space({"much": {"low": 0.0, "high": 1.0}, "nothing": {"low": 0.0, "high": 1.0}}, "space")
    study = opened(tmp_path)
    assert study.importances() == {}
    for _ in range(24):
        trial = study.ask(space, Random(), 1)
        study.tell(trial.number, "finished", float(trial.assignment["much"] or 0))
    found = study.importances()
    assert found["much"] > 0.8
    assert found["much"] > 4 * found["nothing"]


def test_a_grid_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="are known"):
        opened(tmp_path).ask(SPACE, Grid(), 1)


# Damage


@pytest.mark.parametrize(
    "damage", [b"{torn\n", b"\x00\x00\n", b"5\n", b"{}\n", b"[]\n", b"\n", b'"op_code"\n', b"\xff\xfe\n"]
)
def test_a_damaged_line_in_the_middle_is_one_line(tmp_path: Path, damage: bytes) -> None:
    work(opened(tmp_path), Random(), 3)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join([*lines[:4], damage, *lines[5:]]))
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / JOURNAL}:5 is damaged; ")
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_the_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(StorageError) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


# Others read it


def asked(application: Callable[..., Any], path: str) -> Any:
    """Ask a web application for a page of JSON."""
    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
    }
    body = b"".join(application(environ, lambda code, headers, *rest: status.append(code)))
    assert status == ["200 OK"], body
    return json.loads(body)


def test_optuna_dashboard_shows_the_study_and_its_trials(tmp_path: Path) -> None:
    study = opened(tmp_path, "max")
    for number, (state, value) in enumerate([("finished", 0.5), ("finished", 0.75), ("pruned", 0.1), ("failed", None)]):
        study.ask(SPACE, Random(), 1)
        study.report(number, 1, 0.1 * number)
        study.tell(number, state, value)  # type: ignore[arg-type]
    study.again(3)
    application = wsgi(str(tmp_path / JOURNAL))  # as `optuna-dashboard study.journal` opens it
    (summary,) = asked(application, "/api/studies")["study_summaries"]
    assert summary["study_name"] == "a sweep"
    assert summary["directions"] == ["maximize"]
    trials = asked(application, f"/api/studies/{summary['study_id']}")["trials"]
    assert [one["state"] for one in trials] == ["Complete", "Complete", "Pruned", "Fail", "Running"]
    assert [one.get("values") for one in trials[:2]] == [[0.5], [0.75]]
    numbers = [attribute["value"] for one in trials for attribute in one["user_attrs"] if attribute["key"] == NUMBER]
    assert numbers == ["0", "1", "2", "3", "3"]
    for shown, own in zip(trials[:3], study.trials, strict=False):
        names = [param["name"] for param in shown["params"]]
        assert sorted(names) == sorted(own.assignment)
        (scheduler,) = [param["param_external_value"] for param in shown["params"] if param["name"] == "scheduler"]
        assert scheduler == own.assignment["scheduler"]
        assert shown["intermediate_values"][0]["step"] == 1


def test_optuna_goes_on_with_the_study(tmp_path: Path) -> None:
    work(opened(tmp_path), Random(), 3)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    loaded = optuna.load_study(study_name="a sweep", storage=storage)
    assert loaded.best_value == min(one.value for one in opened(tmp_path).trials if one.value is not None)
    assert set(loaded.trials_dataframe()[f"user_attrs_{NUMBER}"]) == {0, 1, 2}


# Read from outside


def test_a_reader_sees_what_the_study_has_and_writes_nothing(tmp_path: Path) -> None:
    study = opened(tmp_path)
    work(study, TPE(startup=3), 6)
    journal = tmp_path / JOURNAL
    before = journal.read_bytes()
    reader = StudyReader(tmp_path)
    assert reader.trials == study.trials
    assert reader.importances() == study.importances() != {}
    assert journal.read_bytes() == before and sorted(tmp_path.iterdir()) == [journal]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_is_being_written_is_left_out_and_left_there(tmp_path: Path, cut: int) -> None:
    study = opened(tmp_path)
    work(study, Random(), 3)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    assert len(StudyReader(tmp_path).trials) == 3
    assert journal.read_bytes() == whole[:-cut]


@pytest.mark.parametrize("content", [None, "", "{}\n", "not a line\n"])
def test_without_a_study_to_read_there_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / JOURNAL).write_text(content)
    with pytest.raises(DataError, match="holds no study yet, or is damaged") as caught:
        StudyReader(tmp_path)
    assert "\n" not in str(caught.value)
