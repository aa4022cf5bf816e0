"""A signal saves after a whole step, or within a validation, and leaves with its exit code; the handlers are given back."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from etude.signals import SIGNALS, StoppedError
from etude.training.callbacks.stop_on_signal import StopOnSignal

MODULE = cast(Any, None)


def trainer_at(step: int, *loggers: Any) -> Any:
    return SimpleNamespace(global_step=step, world_size=1, default_root_dir="outputs/a/run", loggers=loggers)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_waits_for_the_end_of_the_step(number: signal.Signals, code: int) -> None:
    saved: list[int] = []
    before = [signal.getsignal(one) for one in SIGNALS]
    callback = StopOnSignal(lambda trainer: saved.append(trainer.global_step))
    callback.on_train_start(trainer_at(4), MODULE)
    try:
        os.kill(os.getpid(), number)
        callback.on_train_batch_end(trainer_at(4), MODULE, None, None, 0)  # a micro-batch: the step is not whole
        assert saved == []
        with pytest.raises(
            StoppedError, match="after step 5, which is saved; continue with: etude resume outputs/a/run"
        ) as stop:
            callback.on_train_batch_end(trainer_at(5), MODULE, None, None, 1)
    finally:
        callback.teardown(trainer_at(5), MODULE, "fit")
    assert saved == [5]
    assert stop.value.exit_code == code
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_a_logger_that_asks_is_told_which_signal_it_was() -> None:
    told: list[int] = []
    loggers = (SimpleNamespace(), SimpleNamespace(mark_stopped=told.append))
    callback = StopOnSignal(lambda trainer: None)
    callback.on_train_start(trainer_at(4), MODULE)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(StoppedError):
            callback.on_train_batch_end(trainer_at(5, *loggers), MODULE, None, None, 1)
    finally:
        callback.teardown(trainer_at(5), MODULE, "fit")
    assert told == [signal.SIGUSR1]


def test_a_validation_is_left_between_its_batches() -> None:
    saved: list[int] = []
    callback = StopOnSignal(lambda trainer: saved.append(trainer.global_step))
    callback.on_train_start(trainer_at(4), MODULE)
    try:
        callback.on_validation_batch_end(trainer_at(4), MODULE, None, None, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError):
            callback.on_validation_batch_end(trainer_at(4), MODULE, None, None, 1)
    finally:
        callback.teardown(trainer_at(4), MODULE, "fit")
    assert saved == [4]


def test_without_a_signal_nothing_is_saved() -> None:
    callback = StopOnSignal(lambda trainer: pytest.fail("saved"))
    callback.on_train_start(trainer_at(0), MODULE)
    callback.on_train_batch_end(trainer_at(1), MODULE, None, None, 0)
    callback.on_train_end(trainer_at(1), MODULE)
    callback.teardown(trainer_at(1), MODULE, "fit")
