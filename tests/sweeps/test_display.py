"""What a person sees: a line for each member that ends, and in a terminal a table of them all."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from etude.duration import Duration
from etude.runs.record import RECORD, Event, Record
from etude.sweeps.display import LAST_LINES, SweepDisplay, best_entry, describe, last_lines, planned
from etude.sweeps.engine import Engine, MemberEntry
from etude.sweeps.launchers.base import LOG
from etude.sweeps.progress import MemberState
from etude.sweeps.sweep_documents import Attempt


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        """All lines that were ever shown, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()).splitlines()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def entry(
    folder: Path,
    number: int,
    state: MemberState = "waiting",
    score: float | None = None,
    seed: int | None = None,
    mode: str = "min",
    metric: str = "val/loss",
    budget: str = "40step",
) -> MemberEntry:
    """A member whose learning rate is 0.001 times its number."""
    (folder / f"{number:03d}").mkdir(parents=True, exist_ok=True)
    trial = SimpleNamespace(assignment={"optimizer.lr": 0.001 * number})
    config = SimpleNamespace(
        validate=SimpleNamespace(metric=metric, mode=mode), budget=Duration.parse(budget), trainer=None
    )
    member = SimpleNamespace(number=number, trial=trial, seed=seed)
    document = SimpleNamespace(attempts=[])
    made: Any = MemberEntry
    return cast(MemberEntry, made(member, config, folder / f"{number:03d}", document, state, score=score))


def engine_of(*entries: MemberEntry, trials: int | None = None, seeds: int = 0) -> Engine:
    """An engine with these members; of a search of so many trials."""
    settings = SimpleNamespace(seeds=list(range(seeds)), trials=trials)
    plan = SimpleNamespace(searched=trials is not None, settings=settings)
    made = SimpleNamespace(plan=plan, entries={one.member.number: one for one in entries})
    return cast(Engine, made)


def record(one: MemberEntry, step: int, score: float) -> None:
    with_values = Record(one.folder / RECORD)
    with_values.append(Event(step, 0, float(step), {one.config.validate.metric: score}))
    with_values.close()


def fail(one: MemberEntry, state: MemberState) -> None:
    """Let an attempt at a member fail."""
    one.document.attempts.append(Attempt(ended=1.0, code=1, reason="it fell over", step=0))
    one.state = state


def rows_of(stream: Terminal) -> list[list[str]]:
    """The rows of the table that was shown last, as words."""
    heading = max(place for place, line in enumerate(stream.shown) if line.startswith("member"))
    return [line.split() for line in stream.shown[heading:] if re.match(r"\d{3} ", line)]


# Lines


def test_where_there_is_no_terminal_each_member_that_ends_is_a_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    first, second, third = (entry(tmp_path, number, seed=5) for number in range(3))
    engine = engine_of(first, second, third)
    display = SweepDisplay(stream)
    with display.open():
        display.show(engine)
        first.state = second.state = "running"
        display.show(engine)
        assert stream.getvalue() == "", "that a member starts is no line"
        first.state, first.score = "finished", 0.123456789
        display.show(engine)
        display.show(engine)
        second.state, second.score = "pruned", 7.0
        third.state = "skipped"
        display.show(engine)
    assert stream.getvalue().splitlines() == [
        "etude: 000 finished  val/loss 0.12346  optimizer.lr=0 seed=5  (1 of 3; best 000: 0.12346)",
        "etude: 001 pruned  val/loss 7  optimizer.lr=0.001 seed=5  (3 of 3; best 000: 0.12346)",
        "etude: 002 skipped  optimizer.lr=0.002 seed=5  (3 of 3; best 000: 0.12346)",
    ]


def test_a_member_that_fails_shows_the_end_of_its_log_each_time(tmp_path: Path) -> None:
    stream = io.StringIO()
    one = entry(tmp_path, 0, "running")
    display, engine = SweepDisplay(stream), engine_of(one)
    display.show(engine)
    (one.folder / LOG).write_text("".join(f"[bold]line {number}\n" for number in range(9)))
    fail(one, "waiting")
    display.show(engine)
    one.state = "running"
    display.show(engine)
    fail(one, "failed")
    display.show(engine)
    lines = stream.getvalue().splitlines()
    log = [f"  | [bold]line {number}" for number in range(9 - LAST_LINES, 9)]
    assert lines[0].startswith("etude: 000 failed, and is tried again  optimizer.lr=0  (0 of 1)")
    assert lines[1 : 1 + LAST_LINES] == log
    assert lines[1 + LAST_LINES].startswith("etude: 000 failed  optimizer.lr=0  (1 of 1)")
    assert lines[2 + LAST_LINES :] == log


def test_a_long_line_is_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    one = entry(tmp_path, 0, "running")
    display = SweepDisplay(stream)
    display.show(engine_of(one))
    one.state, one.score = "finished", 1.5
    display.show(engine_of(one))
    assert stream.getvalue().count("\n") == 1


def test_what_had_ended_before_is_not_told_again(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = SweepDisplay(stream)
    for _ in range(2):
        display.show(engine_of(entry(tmp_path, 0, "finished", 1.0), entry(tmp_path, 1, "running")))
    assert stream.getvalue() == ""


# The table


def test_a_terminal_shows_state_step_score_and_the_best(tmp_path: Path) -> None:
    stream = Terminal()
    entries = [
        entry(tmp_path, 0, "finished", 0.5),
        entry(tmp_path, 1, "finished", 0.25),
        entry(tmp_path, 2, "running"),
        entry(tmp_path, 3, "failed"),
        entry(tmp_path, 4),
    ]
    record(entries[0], 40, 0.5)
    record(entries[2], 1200, 0.75)
    display = SweepDisplay(stream)
    with display.open():
        display.show(engine_of(*entries))
    assert rows_of(stream) == [
        ["000", "finished", "40", "0.5", "optimizer.lr=0"],
        ["001", "finished", "0.25", "*", "optimizer.lr=0.001"],
        ["002", "running", "1,200", "0.75", "optimizer.lr=0.002"],
        ["003", "failed", "optimizer.lr=0.003"],
        ["004", "waiting", "optimizer.lr=0.004"],
    ]
    text = "\n".join(stream.shown)
    assert re.search(r"member +step +val/loss +left +values", text)
    assert "2 finished  1 running  1 failed  1 waiting  of 5; best 001" in text


def test_members_that_are_judged_by_different_scores_have_no_best(tmp_path: Path) -> None:
    stream = Terminal()
    one, other = entry(tmp_path, 0, "finished", 0.5), entry(tmp_path, 1, "finished", 30.0, metric="val/bleu")
    display = SweepDisplay(stream)
    with display.open():
        display.show(engine_of(one, other))
    text = "\n".join(stream.shown)
    assert re.search(r"member +step +score +left", text)
    assert "best" not in text
    assert "*" not in text


@pytest.mark.parametrize("lines", [10, 50])
def test_the_table_has_room_for_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    """Those that run and failed, then the last that ended; the table is no higher than the terminal."""
    monkeypatch.setenv("LINES", str(lines))
    states: list[MemberState] = ["finished" if number < 30 else "waiting" for number in range(60)]
    states[3], states[30], states[31] = "failed", "running", "running"
    stream = Terminal()
    display = SweepDisplay(stream)
    with display.open():
        display.show(engine_of(*(entry(tmp_path, number, state) for number, state in enumerate(states))))
    numbers = [int(number) for number, *_ in rows_of(stream)]
    assert numbers == sorted(numbers)
    assert {3, 29, 30, 31} <= set(numbers)
    assert len(numbers) == (7 if lines == 10 else 24)
    assert max(numbers) == 31, "what waits has no room"


def test_of_those_that_wait_the_next_are_shown(tmp_path: Path) -> None:
    stream = Terminal()
    display = SweepDisplay(stream)
    with display.open():
        display.show(engine_of(entry(tmp_path, 0, "running"), *(entry(tmp_path, number) for number in range(1, 60))))
    numbers = [int(number) for number, *_ in rows_of(stream)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(("budget", "left"), [("40step", "1:40"), ("9epoch", "")])
def test_the_time_left_follows_from_the_speed_of_this_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, left: str
) -> None:
    now = [1000.0]
    monkeypatch.setattr("etude.sweeps.display.time", SimpleNamespace(monotonic=lambda: now[0]))
    stream = Terminal()
    one = entry(tmp_path, 0, "running", budget=budget)
    record(one, 10, 1.0)
    display = SweepDisplay(stream)
    with display.open():
        display.show(engine_of(one))
        now[0] += 50.0
        record(one, 20, 0.5)  # ten steps in 50 seconds, and twenty are left
        display.show(engine_of(one))
    rows = [line.split() for line in stream.shown if line.startswith("000 ")]
    assert rows[0] == ["000", "running", "10", "1", "optimizer.lr=0"]
    assert rows[-1] == ["000", "running", "20", "0.5", *([left] if left else []), "optimizer.lr=0"]


# Parts


@pytest.mark.parametrize(("mode", "number"), [("min", 2), ("max", 1)])
def test_the_best_member_has_the_best_score_by_its_mode(tmp_path: Path, mode: str, number: int) -> None:
    members = [
        entry(tmp_path, place, "finished", score, mode=mode) for place, score in enumerate((None, 3.0, 1.0, 2.0))
    ]
    best = best_entry(engine_of(*members))
    assert best is not None
    assert best.member.number == number
    assert best_entry(engine_of(members[0])) is None
    assert best_entry(engine_of()) is None


def test_the_number_of_members_that_there_will_be(tmp_path: Path) -> None:
    members = [entry(tmp_path, number) for number in range(3)]
    assert planned(engine_of(*members)) == 3
    assert planned(engine_of(*members, trials=20)) == 20
    assert planned(engine_of(*members, trials=20, seeds=2)) == 40
    assert planned(engine_of(*members, trials=1)) == 3


def test_what_varies_is_said_in_words() -> None:
    assert describe({"optimizer.lr": 0.00123456, "layers": 3, "scheduler": "cosine", "x": None}, 7) == (
        "optimizer.lr=0.001235 layers=3 scheduler=cosine x=None seed=7"
    )
    assert describe({}, None) == ""
    assert describe({}, 0) == "seed=0"


def test_the_end_of_a_log_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    assert last_lines(tmp_path / LOG) == []
    (tmp_path / LOG).write_bytes(b"\xff\xfe\nlast")
    assert last_lines(tmp_path / LOG) == ["\ufffd\ufffd", "last"]
