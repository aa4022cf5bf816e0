"""Guard around a logger, which can then neither stop nor slow the training."""

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

FAILURE_PATIENCE = 2.0
"""Seconds to wait for the guarded logger after a failure or a signal."""

LONGEST_REASON = 300
"""Characters that are shown of what a logger failed with: some quote whole requests."""

_log = logging.getLogger(__name__)


class SafeLogger(Logger):
    """Forwards every call to another logger from a thread, in order.

    When a call fails, or the logger falls too far behind, a warning is logged and the logger is turned off for the rest of
    the process. Its method `abandon`, if it has one, then releases its resources, in a thread of its own since it may hang.
    """

    def __init__(
        self, logger: Logger, where: Where | None = None, *, backlog: int = 10_000, patience: float = 60
    ) -> None:
        """Guard `logger`.

        Args:
            logger: Any Lightning logger.
            where: Returns the position in the run, which is added to all metrics as `tokens` and `seconds` and replaces
                their step; None: the step is Lightning's.
            backlog: Number of calls that may be pending.
            patience: Seconds to wait for the logger at the end of a fit or test.
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
        """Name of the guarded logger."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """Version of the guarded logger."""
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        """Folder of the guarded logger."""
        return self.logger.save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue metrics."""
        row = dict(metrics)
        if self._where:
            step, row["tokens"], row["seconds"] = self._where()
        self._enqueue(lambda: self.logger.log_metrics(row, step))

    @property
    def shows_tables(self) -> bool:
        """Whether the guarded logger shows tables."""
        return not self._off and hasattr(self.logger, "log_table")

    @rank_zero_only
    def log_table(
        self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """Queue a table, if the guarded logger shows tables."""
        log_table = getattr(self.logger, "log_table", None)
        if log_table is not None:
            step = self._where()[0] if self._where else step
            self._enqueue(lambda: log_table(key, columns=list(columns), data=[list(row) for row in data], step=step))

    @rank_zero_only
    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Queue a page of HTML, if the guarded logger shows pages."""
        log_page = getattr(self.logger, "log_page", None)
        if log_page is not None:
            step = self._where()[0] if self._where else step
            self._enqueue(lambda: log_page(key, page, step))

    @rank_zero_only
    def log_heat_maps(self, key: str, images: Sequence[tuple[Any, str]], step: int | None = None) -> None:
        """Queue images with their captions, if the guarded logger shows images."""
        log_heat_maps = getattr(self.logger, "log_heat_maps", None)
        if log_heat_maps is not None:
            step = self._where()[0] if self._where else step
            self._enqueue(lambda: log_heat_maps(key, images, step))

    @rank_zero_only
    def alert(self, title: str, text: str, level: str) -> None:
        """Queue an alert, if the guarded logger sends alerts."""
        alert = getattr(self.logger, "alert", None)
        if alert is not None:
            self._enqueue(lambda: alert(title, text, level))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Queue hyperparameters."""
        self._enqueue(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    @rank_zero_only
    def save(self) -> None:
        """Queue a save, which Lightning requests when a fit starts."""
        self._enqueue(self.logger.save)

    @rank_zero_only
    def mark_stopped(self, number: int) -> None:
        """Tell the guarded logger, if it asks, which signal ends the process before the run is over."""
        mark_stopped = getattr(self.logger, "mark_stopped", None)
        if mark_stopped is not None:
            self._enqueue(lambda: mark_stopped(number))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a fit or a test in the guarded logger and wait for it, up to `patience`; after a failure, abandon it."""
        self._enqueue(lambda: self.logger.finalize(status))
        if status == "success":
            self._drain(self._patience)
        else:
            self._drain(min(FAILURE_PATIENCE, self._patience))
            self._off = True
            self._abandon().join(FAILURE_PATIENCE)

    @rank_zero_only
    def close(self) -> None:
        """Close the guarded logger, if it can be closed, and wait for that, up to `patience`."""
        close = getattr(self.logger, "close", None)
        if close is not None and self._thread is not None:
            self._enqueue(close)
            self._drain(self._patience)

    def _enqueue(self, call: Callable[[], object]) -> None:
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
            except Exception as error:  # of any kind: it must not reach the training
                self._turn_off(str(error) or type(error).__name__)

    def _turn_off(self, why: str) -> None:
        """Make no more calls, and discard those that are pending."""
        if self._off:
            return  # a call fails now because the logger was abandoned
        self._off = True
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
        reason = " ".join(why.split())
        reason = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"
        _log.warning("%s is off: %s; training goes on, and %s has every value", self._kind, reason, RECORD)
        self._abandon()

    def _abandon(self) -> threading.Thread:
        """Release the resources of the guarded logger in a thread, which may never end."""
        abandon = getattr(self.logger, "abandon", lambda: None)
        thread = threading.Thread(target=abandon, name=f"etude-{self._kind}-end", daemon=True)
        thread.start()
        return thread

    def _drain(self, patience: float) -> None:
        """Wait until the calls so far are done, at most `patience` seconds."""
        done, deadline = threading.Event(), time.monotonic() + patience
        self._enqueue(done.set)
        while not (self._off or done.wait(0.05)):
            if time.monotonic() > deadline:
                self._turn_off(f"no answer in {patience:g} s")

    @property
    def _kind(self) -> str:
        return getattr(self.logger, "service", None) or type(self.logger).__name__
