"""Alerts: of an error, of a loss that is not finite, of steps that are left out, and none of a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from etude.errors import NonFiniteError
from etude.signals import StoppedError
from etude.training.callbacks.alerts import Alerts
from etude.training.loggers.alerting import FAILED, NOT_FINITE, alerting
from tests.training.callbacks.conftest import OneWeight


class Told:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def alert(self, *words: str) -> None:
        self.calls.append(words)

    def finalize(self, status: str) -> None:
        self.calls.append((status,))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NonFiniteError("step 7: nan"), [(NOT_FINITE, "step 7: nan", "ERROR")]),
        (ValueError("no"), [(FAILED, "no", "ERROR")]),
        (KeyError(), [(FAILED, "KeyError", "ERROR")]),
        (StoppedError(signal.SIGTERM, "stopped"), []),
        (KeyboardInterrupt(), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_told_and_a_signal_is_not(error: BaseException, told: list[tuple[str, ...]]) -> None:
    logger, silent = Told(), SimpleNamespace(finalize=lambda status: None)
    trainer: Any = SimpleNamespace(loggers=[silent, logger])
    Alerts().on_exception(trainer, None, error)  # type: ignore[arg-type]
    assert logger.calls == told
    logger.calls.clear()
    loggers: Iterable[Logger] = trainer.loggers
    with pytest.raises(type(error)), alerting(loggers):
        raise error
    assert logger.calls == [*told, ("failed",)]


def test_each_line_that_counts_more_left_out_steps_is_told_once_over_interruptions() -> None:
    task, logger = OneWeight(), Told()
    trainer: Any = SimpleNamespace(loggers=[logger], global_step=30)
    alerts = Alerts()

    def log(skipped: float) -> None:
        task.last_logged = {"train/loss": 1.0, "train/skipped_steps": skipped}
        for _ in range(2):
            alerts.on_train_batch_end(trainer, task, None, None, 0)

    log(0.0)
    assert logger.calls == []
    log(2.0)
    log(2.0)
    assert logger.calls == [(NOT_FINITE, "2 steps are left out so far, at step 30", "WARN")]
    state, alerts = alerts.state_dict(), Alerts()
    alerts.load_state_dict(state)
    log(2.0)
    assert len(logger.calls) == 1
    log(3.0)
    assert len(logger.calls) == 2
