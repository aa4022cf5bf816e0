"""How far a member is, is read from files that are being written, and that may lie."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import DataError
from etude.runs.documents import PRUNED
from etude.runs.lock import RunLock, holder
from etude.runs.record import RECORD, Event, Record
from etude.sweeps.progress import (
    STATE,
    Progress,
    RecordFollower,
    best,
    last_line,
    progress,
    read_states,
    scores,
    wait_for,
)

FINITE = st.floats(allow_nan=False)


def recorded(run: Path, *values: float | None) -> Path:
    """A run with a validation after every second step, but for those without a value."""
    record = Record(run / RECORD)
    for index, value in enumerate(values, 1):
        record.append(Event(2 * index - 1, 0, index - 0.5, {"train/loss": 1.0}))
        record.append(Event(2 * index, 0, float(index), {} if value is None else {"val/loss": value}))
    record.close()
    return run


def test_scores_are_those_of_each_validation_in_order(tmp_path: Path) -> None:
    assert scores(tmp_path, "val/loss") == []
    recorded(tmp_path, 3.0, None, 1.0, math.inf, 2.0)
    assert scores(tmp_path, "val/loss") == [3.0, 1.0, math.inf, 2.0]
    assert scores(tmp_path, "val/bleu") == []


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_record_that_grows_is_followed_to_what_it_says_as_a_whole(tmp_path: Path, mode: str) -> None:
    follower = RecordFollower(tmp_path, "val/loss", mode)
    assert follower.look() == Progress()
    recorded(tmp_path, 3.0, None, 1.0, 2.0)
    whole = (tmp_path / RECORD).read_bytes()
    for size in range(0, len(whole) + 1, 7):  # lines appear in any parts
        (tmp_path / RECORD).write_bytes(whole[:size])
        follower.look()
    (tmp_path / RECORD).write_bytes(whole)
    assert follower.look() == progress(tmp_path, "val/loss", mode)
    lines = whole.splitlines(keepends=True)
    (tmp_path / RECORD).write_bytes(b"".join(lines[:2]))  # cut back by a run that is continued
    assert follower.look() == Progress(2, 1.0, 3.0, 0)


def test_a_damaged_record_is_refused_by_scores_and_overlooked_by_progress(tmp_path: Path) -> None:
    recorded(tmp_path, 3.0, 1.0)
    (tmp_path / RECORD).write_bytes((tmp_path / RECORD).read_bytes().replace(b"3.0", b"0.5"))
    with pytest.raises(DataError, match="is damaged"):
        scores(tmp_path, "val/loss")
    assert progress(tmp_path, "val/loss", "min") == Progress()


def test_progress_has_steps_seconds_and_the_best_score(tmp_path: Path) -> None:
    assert progress(tmp_path, "val/loss", "min") == Progress()
    recorded(tmp_path, None)
    assert progress(tmp_path, "val/loss", "min").score is None
    (tmp_path / RECORD).unlink()
    recorded(tmp_path, 3.0, 1.0, math.nan, 2.0)
    assert progress(tmp_path, "val/loss", "min") == Progress(8, 4.0, 1.0, 0)
    assert progress(tmp_path, "val/loss", "max").score == 3.0


@given(values=st.lists(FINITE | st.just(math.nan), max_size=6))
def test_the_best_is_one_that_no_other_beats(values: list[float]) -> None:
    numbers = [value for value in values if not math.isnan(value)]
    smallest, largest = best(values, "min"), best(values, "max")
    if not numbers:
        assert smallest is None
        assert largest is None
        return
    assert smallest is not None
    assert largest is not None
    assert {smallest, largest} <= set(numbers)
    assert all(smallest <= value <= largest for value in numbers)


def test_the_last_line_is_the_last_that_is_whole(tmp_path: Path) -> None:
    assert last_line(tmp_path) == (0, 0.0)
    recorded(tmp_path, 3.0, 1.0, 2.0)
    whole = (tmp_path / RECORD).read_bytes()
    lines = whole.splitlines(keepends=True)
    assert last_line(tmp_path) == (6, 3.0)
    for cut in range(len(whole) - len(lines[-1]) + 1, len(whole) - 1):
        (tmp_path / RECORD).write_bytes(whole[:cut])
        assert last_line(tmp_path) == (5, 2.5), "a line that is being written hides the one before it"


def test_the_last_line_of_a_long_record_is_found_without_the_rest(tmp_path: Path) -> None:
    recorded(tmp_path, *range(1, 400))
    assert (tmp_path / RECORD).stat().st_size > 1 << 15
    assert last_line(tmp_path) == (798, 399.0)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"5\n", b"\xff\xfe", b'{"step": null, "seconds": 1}\n'])
def test_a_record_that_says_nothing_is_at_the_beginning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    assert last_line(tmp_path) == (0, 0.0)


# The process of a sweep


def test_the_process_that_holds_the_lock_runs_the_sweep(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with RunLock(tmp_path, "sweep"):
        assert holder(tmp_path) == os.getpid()
    code = (
        f"from pathlib import Path; from etude.runs.lock import RunLock; RunLock(Path({str(tmp_path)!r})).__enter__()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert holder(tmp_path) is None


def test_one_waits_for_a_sweep_until_its_process_has_ended(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from etude.runs.lock import RunLock; RunLock(Path({str(tmp_path)!r})).__enter__()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(1, flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    assert holder(tmp_path) == child.pid
    assert not wait_for(tmp_path, 0.0)
    child.stdin.close()
    started = time.monotonic()
    assert wait_for(tmp_path, 60.0)
    assert time.monotonic() - started < 30
    child.wait()


@pytest.mark.parametrize("text", ["", "somebody", "1", "99999999999999999999"])
def test_what_a_file_says_is_no_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    assert holder(tmp_path) is None


def test_states_are_what_the_process_said_last(tmp_path: Path) -> None:
    assert read_states(tmp_path) == {}
    members = [{"number": 0, "state": "finished"}, {"number": 7, "state": "running"}]
    (tmp_path / STATE).write_text(json.dumps({"members": members}))
    assert read_states(tmp_path) == {0: members[0], 7: members[1]}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"members": 5}', '{"members": [5]}', '{"members": [{}]}']
)
def test_states_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    assert read_states(tmp_path) == {}


def test_the_reason_of_a_pruned_run_begins_with_a_word() -> None:
    assert PRUNED == "pruned"
