"""A checkpoint knows how far the record was, and takes it back there."""

from __future__ import annotations

from pathlib import Path

from etude.runs.record import Event, Record, read
from etude.training.callbacks.record_position import RecordPosition


def test_what_was_recorded_after_a_checkpoint_is_forgotten_when_it_is_continued_from(tmp_path: Path) -> None:
    record = Record(tmp_path / "metrics.jsonl")
    position = RecordPosition(record)
    record.append(Event(1, 10, 0.5, {"train/loss": 2.0}))
    saved = position.state_dict()
    record.append(Event(2, 20, 1.0, {"train/loss": 1.0}))
    position.load_state_dict(saved)
    assert [event.step for event in read(record.path)] == [1]
    record.append(Event(3, 30, 1.5, {"train/loss": 0.5}))
    assert [event.step for event in read(record.path)] == [1, 3]


def test_a_rank_without_a_record_has_nothing_to_take_back() -> None:
    position = RecordPosition(None)
    assert position.state_dict() == {"bytes": 0}
    position.load_state_dict({"bytes": 99})
