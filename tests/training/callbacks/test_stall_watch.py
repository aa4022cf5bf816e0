"""The watch over a training that does not go on: it says so once, where it is, and when it goes on."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from etude.training.callbacks import stall_watch
from etude.training.callbacks.stall_watch import FEWEST, LEAST, STALLED, StallWatch


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Alerted:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []

    def alert(self, title: str, text: str, level: str) -> None:
        self.sent.append((title, text, level))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stall_watch, "time", clock)
    return clock


def take_steps(watch: StallWatch, clock: Clock, count: int, seconds: float, first: int = 0) -> None:
    for step in range(first, first + count):
        watch.on_train_batch_start(trainer(step), None, None, 0)  # type: ignore[arg-type]
        clock.now += seconds
        watch.on_train_batch_end(trainer(step + 1), None, None, None, 0)  # type: ignore[arg-type]


def trainer(step: int) -> Any:
    return SimpleNamespace(global_step=step, is_global_zero=True, loggers=[])


def test_too_long_is_a_multiple_of_the_median_step_and_a_minute(clock: Clock) -> None:
    watch = StallWatch(20)
    take_steps(watch, clock, FEWEST, 2.0)  # one step less is known: the first has no begin
    assert watch.limit() is None
    take_steps(watch, clock, 1, 900.0, FEWEST)
    assert watch.limit() == LEAST
    take_steps(watch, clock, 9, 7.0, FEWEST + 1)
    assert watch.limit() == 20 * 7.0


def test_a_stall_is_said_once_and_its_end_too(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    watch, logger = StallWatch(20), Alerted()
    take_steps(watch, clock, 9, 2.0)
    clock.now += LEAST - 1
    watch.look([logger])  # type: ignore[list-item]
    assert (caplog.messages, logger.sent) == ([], [])
    for _ in range(2):
        clock.now += 2
        watch.look([logger])  # type: ignore[list-item]
    (line,) = caplog.messages
    assert line.startswith(
        "the training does not go on: nothing has ended for 61 s, where a step takes 2 s: after step 9"
    )
    assert "in look (stall_watch.py:" in line  # where the main thread is
    ((title, text, level),) = logger.sent
    assert (title, level) == (STALLED, "WARN") and text in line
    take_steps(watch, clock, 1, 2.0, 9)
    assert caplog.messages[1:] == ["the training goes on: in step 10"]


def test_scores_of_a_validation_have_no_limit_and_its_batches_have(clock: Clock) -> None:
    watch, logger = StallWatch(20), Alerted()
    take_steps(watch, clock, 9, 2.0)
    watch.on_validation_batch_end(trainer(9), None, None, None, 0)  # type: ignore[arg-type]
    watch.on_validation_epoch_end(trainer(9), None)  # type: ignore[arg-type]
    clock.now += 10_000
    watch.look([logger])  # type: ignore[list-item]
    assert logger.sent == []
    watch.on_validation_end(trainer(9), None)  # type: ignore[arg-type]
    clock.now += 10_000
    watch.look([logger])  # type: ignore[list-item]
    assert len(logger.sent) == 1


def test_the_thread_ends_with_the_training() -> None:
    watch = StallWatch(20)
    watch.on_train_start(trainer(0), None)  # type: ignore[arg-type]
    (thread,) = [one for one in threading.enumerate() if one.name == "etude-stall-watch"]
    watch.on_train_end(trainer(0), None)  # type: ignore[arg-type]
    thread.join(2)
    assert not thread.is_alive()
