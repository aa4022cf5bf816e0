"""Each value of the record reaches a tracker once, wherever a process is cut off and continued."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.runs.record import RECORD, Event, Record
from etude.training.loggers.mirror import Ending, Entry, Mirror, ScalarMirror, Unsent
from etude.training.loggers.safe_logger import SafeLogger
from tests.training.loggers.tracked_runs import entries, event, lose, train


class Service:
    """Holds what it was sent, of a process that may be lost before its last values arrive."""

    def __init__(self) -> None:
        self.rows: list[Unsent] = []
        self.endings: list[str] = []

    def lose(self, count: int) -> None:
        """Forget the last rows, as of a process that was killed before it wrote them."""
        del self.rows[len(self.rows) - count :]

    def entries(self) -> list[tuple[int, str, float]]:
        position = {"tokens", "seconds"}
        return sorted((row.step, name, row.values[name]) for row in self.rows for name in row.values.keys() - position)


class ServiceMirror(Mirror):
    name = "service"
    version = "1"

    def __init__(self, folder: Path, service: Service) -> None:
        super().__init__(folder)
        self.held_by = service

    def connect(self) -> Iterable[Entry]:
        return {(row.step, name) for row in self.held_by.rows for name in row.values}

    def send(self, events: Sequence[Unsent]) -> None:
        self.held_by.rows.extend(events)

    def conclude(self, ending: Ending) -> None:
        self.held_by.endings.append(ending)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=4))
def test_whatever_is_lost_and_repeated_every_value_is_there_once(kills: list[tuple[int, int, int]]) -> None:
    """Each kill: so many events more are trained, so many rows are lost, and so many events are trained again."""
    service, done = Service(), 0
    with TemporaryDirectory() as folder:
        Record(Path(folder) / RECORD).close()
        for more, lost, back in kills:
            train(Path(folder), lambda: ServiceMirror(Path(folder), service), done, done + more)
            service.lose(min(lost, len(service.rows)))
            done = max(done + more - back, 0)
        train(Path(folder), lambda: ServiceMirror(Path(folder), service), done, 40)
    assert service.entries() == entries(40)


def test_what_was_never_sent_is_sent_from_the_record_with_its_position(tmp_path: Path) -> None:
    service = Service()
    Record(tmp_path / RECORD).close()
    lose(tmp_path, 3)
    ServiceMirror(tmp_path, service).save()
    assert service.rows == [
        Unsent(one.step, one.seconds, {**one.values, "tokens": one.tokens, "seconds": one.seconds})
        for one in map(event, range(3))
    ]


def test_a_second_value_of_a_name_at_a_step_is_not_sent(tmp_path: Path) -> None:
    service = Service()
    mirror = ServiceMirror(tmp_path, service)
    mirror.log_metrics({"train/loss": 2.0, "tokens": 9}, 3)
    mirror.log_metrics({"train/loss": 5.0, "val/loss": 1.0, "tokens": 9}, 3)
    mirror.log_metrics({"tokens": 9}, 3)
    assert [row.values for row in service.rows] == [{"train/loss": 2.0, "tokens": 9}, {"val/loss": 1.0, "tokens": 9}]


@pytest.mark.parametrize(
    ("number", "status", "endings"),
    [(None, "success", ["finished"]), (None, "failed", ["failed"]), (signal.SIGTERM, "failed", ["killed"])],
)
def test_a_run_ends_as_it_ended(number: int | None, status: str, endings: list[str], tmp_path: Path) -> None:
    service = Service()
    logger = SafeLogger(ServiceMirror(tmp_path, service))
    logger.log_metrics({"train/loss": 2.0}, 1)
    if number is not None:
        logger.mark_stopped(number)
    logger.finalize(status)
    assert service.endings == ([] if status == "success" else endings)  # scores follow a fit that went well
    logger.close()
    assert service.endings == endings


def test_a_run_that_nothing_was_logged_of_is_not_opened_to_end_it(tmp_path: Path) -> None:
    service = Service()
    mirror = ServiceMirror(tmp_path, service)
    mirror.finalize("failed")
    mirror.close()
    assert service.endings == []


def test_where_values_stand_alone_the_position_is_sent_once_a_step(tmp_path: Path) -> None:
    sent: list[tuple[int, dict[str, float]]] = []

    class Scalars(ScalarMirror):
        name = "scalars"
        version = "1"

        def connect(self) -> Iterable[Entry]:
            return {(1, "tokens")}

        def send(self, events: Sequence[Unsent]) -> None:
            sent.extend((one.step, self.scalars(one)) for one in events)

    mirror = Scalars(tmp_path)
    for step, name in ((1, "train/loss"), (2, "train/loss"), (2, "val/loss")):
        mirror.log_metrics({name: 0.5, "tokens": 7 * step, "seconds": 1.5 * step}, step)
    assert sent == [
        (1, {"train/loss": 0.5, "seconds": 1.5}),
        (2, {"train/loss": 0.5, "tokens": 14.0, "seconds": 3.0}),
        (2, {"val/loss": 0.5}),
    ]


def test_a_record_that_is_damaged_turns_the_tracker_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Record(tmp_path / RECORD).append(Event(1, 2, 3.0, {"train/loss": 1.0}))
    (tmp_path / RECORD).write_bytes((tmp_path / RECORD).read_bytes().replace(b"1.0", b"9.0"))
    logger = SafeLogger(ServiceMirror(tmp_path, Service()))
    logger.log_metrics({"train/loss": 2.0}, 2)
    logger.close()
    assert "ServiceMirror is off: " in caplog.text


def test_values_between_two_requests_go_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    requests: list[list[int]] = []

    class Slow(ServiceMirror):
        interval = 5.0

        def send(self, events: Sequence[Unsent]) -> None:
            requests.append([one.step for one in events])

    monkeypatch.setattr("etude.training.loggers.mirror.time.monotonic", lambda: now)
    mirror = Slow(tmp_path, Service())
    for step, now in ((1, 100.0), (2, 101.0), (3, 104.9), (4, 105.1), (5, 106.0)):  # noqa: B007 (the clock reads it)
        mirror.log_metrics({"train/loss": 0.5}, step)
    assert requests == [[1], [2, 3, 4]]
    mirror.finalize("success")
    assert requests == [[1], [2, 3, 4], [5]]
