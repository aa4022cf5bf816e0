"""A logger between Lightning and any other logger: the other one can then neither stop nor slow the training."""

from __future__ import annotations

import logging
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from etude.runs.record import RECORD, Where

HURRY = 2.0
"""Seconds to wait for the other logger where a training has failed or a signal ends it."""

_log = logging.getLogger(__name__)


class SafeLogger(Logger):
    """Hands everything on to another logger, which can then neither stop nor slow the training.

    A thread makes the other logger's calls, one after the other. The first that fails is told in one line, and so is a
    logger that falls too far behind; it is then left alone for the rest of the process. What it holds is let go by its
    `abandon`, if it has that, in a thread that nobody waits for.
    """

    def __init__(
        self, logger: Logger, where: Where | None = None, *, backlog: int = 10_000, patience: float = 60
    ) -> None:
        """Guard `logger`.

        Args:
            logger: Any logger of Lightning's kind.
            where: Adds the position to each of its metrics, as `tokens` and `seconds`, and takes the step from there.
            backlog: How many calls may wait.
            patience: Seconds to wait for it at the end of a fit or test.
        """
        super().__init__()
        self.logger = logger
        self._where = where
        self._patience = patience
        self._calls: Queue[Callable[[], object]] = Queue(backlog)
        self._thread: threading.Thread | None = None
        self._off = False

    @property
    def name(self) -> str | None:
        """The other logger's name."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """The other logger's version."""
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        """The other logger's folder."""
        return self.logger.save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, soon."""
        row = dict(metrics)
        if self._where:
            step, row["tokens"], row["seconds"] = self._where()
        self._later(lambda: self.logger.log_metrics(row, step))

    @rank_zero_only
    def log_table(
        self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """Log a table, soon, where the other logger has tables."""
        log_table = getattr(self.logger, "log_table", None)
        if log_table is not None:
            step = self._where()[0] if self._where else step
            self._later(lambda: log_table(key, columns=list(columns), data=[list(row) for row in data], step=step))

    @rank_zero_only
    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Log a page of HTML, soon, where the other logger shows pages."""
        log_page = getattr(self.logger, "log_page", None)
        if log_page is not None:
            step = self._where()[0] if self._where else step
            self._later(lambda: log_page(key, page, step))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log hyperparameters, soon."""
        self._later(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    @rank_zero_only
    def save(self) -> None:
        """Have the other logger save, soon. Lightning asks for it when a fit starts."""
        self._later(self.logger.save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Have the other logger end a fit or a test, and wait for that, but only so long; after a failure let go of it."""
        self._later(lambda: self.logger.finalize(status))
        if status == "success":
            self._drain(self._patience)
        else:
            self._drain(min(HURRY, self._patience))
            self._off = True
            self._let_go().join(HURRY)

    @rank_zero_only
    def close(self) -> None:
        """End the other logger's run, if it has an end, and wait for that, but only so long."""
        close = getattr(self.logger, "close", None)
        if close is not None and self._thread is not None:
            self._later(close)
            self._drain(self._patience)

    def _later(self, call: Callable[[], object]) -> None:
        if self._off:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"etude-{self._kind}", daemon=True)
            self._thread.start()
        try:
            self._calls.put_nowait(call)
        except Full:
            self._turn_off(f"{self._calls.maxsize} calls behind")

    def _work(self) -> None:
        while not self._off:
            call = self._calls.get()
            try:
                call()
            except Exception as error:  # whatever it is, it is not the training's
                self._turn_off(str(error) or type(error).__name__)

    def _turn_off(self, why: str) -> None:
        """Leave the other logger alone from now on, and let nobody wait for the calls that are left."""
        if self._off:
            return  # what fails now, fails because it was let go
        self._off = True
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
        _log.warning(
            "%s is off: %s; training goes on, and %s has every value", self._kind, " ".join(why.split()), RECORD
        )
        self._let_go()

    def _let_go(self) -> threading.Thread:
        """Have the other logger let go of what it holds, in a thread that may never end."""
        abandon = getattr(self.logger, "abandon", lambda: None)
        thread = threading.Thread(target=abandon, name=f"etude-{self._kind}-end", daemon=True)
        thread.start()
        return thread

    def _drain(self, patience: float) -> None:
        """Wait until the calls so far are done, at most as long as patience allows, in seconds."""
        done, deadline = threading.Event(), time.monotonic() + patience
        self._later(done.set)
        while not (self._off or done.wait(0.05)):
            if time.monotonic() > deadline:
                self._turn_off(f"no answer in {patience:g} s")

    @property
    def _kind(self) -> str:
        return type(self.logger).__name__
