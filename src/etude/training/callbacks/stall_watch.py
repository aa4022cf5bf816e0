"""Watch over a training that does not go on: it is said in one line, and by the trackers that send alerts."""

from __future__ import annotations

import logging
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from etude.training.loggers.alerting import alert
from etude.training.rank_watch import own_line

STALLED = "The run does not go on"
"""Title of the alert."""

LEAST = 60.0
"""Seconds that are never a stall: a slow disk or a shared machine explains them."""

STEPS = 50
"""So many of the last steps say how long one usually takes."""

FEWEST = 5
"""Steps before which nothing is known of that: the first ones may compile."""

_POLL = 5.0
_log = logging.getLogger(__name__)


class StallWatch(Callback):
    """Says once when neither a step nor a batch of a validation has ended for too long; it stops nothing.

    A thread of its own looks at the clock every few seconds. What computes the scores of a validation has no limit.

    Args:
        multiple: It is too long after so many times the usual duration of a step, and `LEAST`.
    """

    def __init__(self, multiple: float) -> None:
        self._multiple = multiple
        self._durations: deque[float] = deque(maxlen=STEPS)
        self._step = 0
        self._stepped: float | None = None
        self._moved: float | None = None
        self._place = ""
        self._said = False
        self._stopped = threading.Event()
        self._main = threading.main_thread().ident

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the thread, on the first rank."""
        self._step = trainer.global_step
        if trainer.is_global_zero:
            self._stopped.clear()
            arguments = (self._stopped, list(trainer.loggers))
            threading.Thread(target=self._watch, args=arguments, name="etude-stall-watch", daemon=True).start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that the batch was read."""
        self._move(f"in step {trainer.global_step + 1}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of a step, and how long it took; one that follows a validation does not count."""
        self._move(f"after step {trainer.global_step}")
        if trainer.global_step != self._step:
            if self._stepped is not None:
                self._durations.append(time.monotonic() - self._stepped)
            self._step, self._stepped = trainer.global_step, time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note that a batch was judged."""
        self._move(f"after batch {batch_idx + 1} of the validation after step {trainer.global_step}")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set no limit to what computes the scores."""
        self._moved = self._stepped = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch again."""
        self._move(f"after the validation after step {trainer.global_step}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the thread."""
        self._stopped.set()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the thread."""
        self._stopped.set()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop the thread."""
        self._stopped.set()

    def limit(self) -> float | None:
        """Return the seconds after which a training is said to stall; None while too little is known."""
        if len(self._durations) < FEWEST:
            return None
        return max(LEAST, self._multiple * statistics.median(self._durations))

    def look(self, loggers: Iterable[Logger]) -> None:
        """Say that the training stalls if it does, once until it goes on."""
        moved, limit = self._moved, self.limit()
        if moved is None or limit is None or self._said or time.monotonic() - moved <= limit:
            return
        self._said = True
        frame = sys._current_frames().get(self._main or 0)
        code = own_line(traceback.walk_stack(frame)) if frame is not None else "no line"
        text = (
            f"nothing has ended for {time.monotonic() - moved:.0f} s, where a step takes "
            f"{statistics.median(self._durations):.3g} s: {self._place}, in {code}; log.stall_after=null turns this off"
        )
        _log.warning("the training does not go on: %s", text)
        alert(loggers, STALLED, text, "WARN")

    def _watch(self, stopped: threading.Event, loggers: Iterable[Logger]) -> None:
        while not stopped.wait(_POLL):
            self.look(loggers)

    def _move(self, place: str) -> None:
        if self._said:
            _log.warning("the training goes on: %s", place)
        self._moved, self._place, self._said = time.monotonic(), place, False
