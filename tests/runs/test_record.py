from __future__ import annotations

import math
import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import DataError, StorageError
from etude.runs.record import Event, Record, comparable, read, read_some, read_values, series

NUMBERS = st.floats() | st.integers(-(2**53), 2**53)
EVENTS = st.builds(
    Event,
    step=st.integers(0, 10**9),
    tokens=st.integers(0, 10**15),
    seconds=st.floats(0, 1e9),
    values=st.dictionaries(st.text(max_size=11), NUMBERS, max_size=5),
)


def bits(event: Event) -> tuple[object, ...]:
    values = {name: struct.pack("d", value) for name, value in event.values.items() if not math.isnan(value)}
    nans = {name for name, value in event.values.items() if math.isnan(value)}
    return event.step, event.tokens, event.seconds, values, nans


def written(path: Path, *events: Event) -> Record:
    record = Record(path)
    for event in events:
        record.append(event)
    return record


def event(step: int, **values: float) -> Event:
    return Event(step, 7 * step, 0.1 * step, values or {"loss": 1 / (step + 1)})


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, max_size=7))
def test_every_number_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    path = tmp_path_factory.mktemp("record") / "metrics.jsonl"
    written(path, *events).close()
    assert [bits(found) for found in read(path)] == [bits(given) for given in events]


@settings(max_examples=60, deadline=None)
@given(before=st.lists(EVENTS, max_size=3), after=st.lists(EVENTS, max_size=3), again=st.lists(EVENTS, max_size=3))
def test_a_cut_record_is_the_record_that_went_on_from_there(
    tmp_path_factory: pytest.TempPathFactory, before: list[Event], after: list[Event], again: list[Event]
) -> None:
    folder = tmp_path_factory.mktemp("record")
    record = written(folder / "cut.jsonl", *before)
    position = record.position()
    written(folder / "cut.jsonl", *after).close()
    record.cut(position)
    for one in again:
        record.append(one)
    written(folder / "straight.jsonl", *before, *again).close()
    assert (folder / "cut.jsonl").read_bytes() == (folder / "straight.jsonl").read_bytes()


def test_a_line_is_json_with_the_agreed_names(tmp_path: Path) -> None:
    record = written(tmp_path / "m.jsonl", Event(50, 204800, 12.5, {"train/loss": 6.25, "train/norm": math.inf}))
    assert (tmp_path / "m.jsonl").read_text() == (
        '{"step": 50, "tokens": 204800, "seconds": 12.5, "values": {"train/loss": 6.25, "train/norm": "inf"}, '
        '"check": "77ac447e"}\n'
    )
    assert record.position() == (tmp_path / "m.jsonl").stat().st_size


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    written(path, event(1), event(2), event(3)).close()
    sound = path.read_bytes()
    second = sound.index(b"\n") + 1
    for place in range(second, sound.index(b"\n", second)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(DataError, match=r"m\.jsonl, line 2 is damaged"):
            read(path)


def test_an_unfinished_last_line_is_dropped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.jsonl"
    written(path, event(1), event(2)).close()
    sound = path.read_bytes()
    for length in range(sound.index(b"\n") + 2, len(sound)):
        path.write_bytes(sound[:length])
        caplog.clear()
        assert read(path) == [event(1)]
        assert caplog.messages == [
            f"{path}, line 2 was left unfinished by a process that was stopped; it is dropped",
        ]
    written(path, event(2)).close()
    assert path.read_bytes() == sound


@pytest.mark.parametrize("position", [5, 10_000])
def test_a_cut_where_no_line_ends_is_refused(tmp_path: Path, position: int) -> None:
    record = written(tmp_path / "m.jsonl", event(1))
    with pytest.raises(DataError, match=rf"no line that ends at byte {position}"):
        record.cut(position)
    assert read(tmp_path / "m.jsonl") == [event(1)]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = written(tmp_path / "m.jsonl", event(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:11]))
    with pytest.raises(StorageError, match=r"m\.jsonl: No space left on device; free some space"):
        record.append(event(2))
    monkeypatch.undo()
    record.append(event(3))
    assert read(tmp_path / "m.jsonl") == [event(1), event(3)]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        Record(tmp_path / "absent" / "m.jsonl")
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read: No such file"):
        read(tmp_path / "absent.jsonl")


def test_numbers_of_other_libraries_are_written_as_numbers(tmp_path: Path) -> None:
    values: dict[str, Any] = {"float32": np.float32(0.1), "int64": np.int64(3), "integer": 3}
    written(tmp_path / "m.jsonl", Event(1, 1, 1.0, values)).close()
    assert read(tmp_path / "m.jsonl")[0].values == {"float32": float(np.float32(0.1)), "int64": 3, "integer": 3}


def test_series_are_the_steps_where_a_value_is() -> None:
    events = [event(1, loss=3.0), event(2, bleu=5.0), event(3, loss=2.0, bleu=7.0)]
    assert series(events, "loss") == ([1, 3], [3.0, 2.0])
    assert series(events, "bleu") == ([2, 3], [5.0, 7.0])
    assert series(events, "absent") == ([], [])


def test_equal_runs_are_comparable_and_others_are_not() -> None:
    first = Event(5, 7, 1.25, {"loss": math.nan, "speed/tokens_per_second": 3.0})
    second = Event(5, 7, 2.5, {"speed/tokens_per_second": 4.0, "loss": float("nan")})
    assert comparable(first) == comparable(second)
    for other in (
        Event(6, 7, 1.25, {"loss": math.nan}),
        Event(5, 8, 1.25, {"loss": math.nan}),
        Event(5, 7, 1.25, {"loss": 1.0}),
    ):
        assert comparable(first) != comparable(other)
    assert comparable(event(1, loss=0.0)) != comparable(event(1, loss=-0.0))


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    for attempt in range(11):
        path = tmp_path / f"{attempt}.jsonl"
        child = os.fork()
        if child == 0:
            record = Record(path)
            step = 0
            while True:
                record.append(event(step))
                step += 1
        while not path.exists() or path.stat().st_size < 700 * (attempt + 1):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert read(path) == [event(step) for step in range(len(read(path)))]


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, max_size=7))
def test_reading_fast_is_reading(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    path = tmp_path_factory.mktemp("record") / "metrics.jsonl"
    written(path, *events).close()
    assert [bits(Event(*line)) for line in read_values(path)] == [bits(event) for event in read(path)]


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, max_size=7), name=st.sampled_from(["loss", 'a"b', "ü", "step"]))
def test_some_events_are_those_of_all(tmp_path_factory: pytest.TempPathFactory, events: list[Event], name: str) -> None:
    path = tmp_path_factory.mktemp("record") / "metrics.jsonl"
    named = [Event(one.step, one.tokens, one.seconds, {**one.values, name: 0.5}) for one in events[::2]]
    written(path, *events, *named, *events[:1]).close()
    whole = read(path)
    found, last = read_some(path, name)
    assert [bits(one) for one in found] == [bits(one) for one in whole if name in one.values]
    assert (last and bits(last)) == (bits(whole[-1]) if whole else None)


def test_reading_fast_notices_damage_and_skips_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, event(1, loss=1.0), event(2, other=2.0), event(3, loss=3.0)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert [line[0] for line in read_values(path)] == [1, 2]
    assert [one.step for one in read_some(path, "loss")[0]] == [1]
    path.write_bytes(whole.replace(b"3.0", b"4.0"))
    with pytest.raises(DataError, match="line 3 is damaged"):
        list(read_values(path))
    with pytest.raises(DataError, match="line 3 is damaged"):
        read_some(path, "loss")
