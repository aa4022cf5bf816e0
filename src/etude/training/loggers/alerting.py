"""Alerts of a run: what a person wants to be told who is not looking, by the trackers that can tell them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from lightning.pytorch.loggers import Logger

from etude.errors import NonFiniteError

Level = Literal["WARN", "ERROR"]

FAILED, NOT_FINITE = "The run failed", "The loss is not finite"
"""Titles of alerts."""

LONGEST_TEXT = 1_000
"""Characters of an alert: some errors quote whole requests."""


def alert(loggers: Iterable[Logger], title: str, text: str, level: Level) -> None:
    """Send an alert through the loggers that can."""
    for logger in loggers:
        send = getattr(logger, "alert", None)
        if send is not None:
            send(title, text[:LONGEST_TEXT], level)


def alert_of_error(loggers: Iterable[Logger], error: BaseException) -> None:
    """Send an alert of what ended a run; none of a signal, by which somebody ended it on purpose."""
    if isinstance(error, Exception):  # `StoppedError` is none
        title = NOT_FINITE if isinstance(error, NonFiniteError) else FAILED
        alert(loggers, title, str(error) or type(error).__name__, "ERROR")


@contextmanager
def alerting(loggers: Iterable[Logger]) -> Iterator[None]:
    """Tell the loggers of an error after a training, of which Lightning tells them nothing."""
    try:
        yield
    except BaseException as error:
        alert_of_error(loggers, error)
        for logger in loggers:
            logger.finalize("failed")
        raise
