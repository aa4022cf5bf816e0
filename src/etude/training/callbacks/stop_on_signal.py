"""Graceful stop on a signal: the step is finished, its checkpoint written, and the process exits."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning
import torch
import torch.distributed
from lightning.pytorch.callbacks import Callback

from etude.errors import DataError
from etude.signals import SIGNALS, STOP, StoppedError, leave_at_once


class StopOnSignal(Callback):
    """Saves and exits after the step, or the batch of a validation, in which a signal arrived.

    Whichever rank received it, all save together and exit. The exit code is the signal's: 130 or 143. A second Ctrl-C
    exits at once.

    Args:
        save: Saves a checkpoint of the last whole step, unless it exists.
    """

    def __init__(self, save: Callable[[lightning.Trainer], None]) -> None:
        self._save = save
        self._received = 0
        self._previous: dict[int, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Install the handlers."""
        self._step = trainer.global_step
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            leave_at_once()
        self._received = number
        STOP.set()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Exit after a whole step.

        Raises:
            StoppedError: If any rank received a signal.
        """
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._exit_if_signalled(trainer)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Exit from a validation; the continued run starts with it.

        Raises:
            StoppedError: If any rank received a signal.
        """
        self._exit_if_signalled(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Exit when no further step follows.

        Raises:
            StoppedError: If any rank received a signal.
        """
        self._exit_if_signalled(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save the last whole step where the data cannot be read on, and exit if a signal ended the wait for it.

        The other ranks of a distributed training cannot save with this one: they continue from their last checkpoint.

        Raises:
            StoppedError: If a signal was received.
        """
        if isinstance(exception, DataError) and trainer.world_size == 1 and trainer.training:
            self._save(trainer)
            self._exit_if_signalled(trainer)

    def _exit_if_signalled(self, trainer: lightning.Trainer) -> None:
        received = self._received_anywhere(trainer)
        if received:
            self._save(trainer)
            for logger in trainer.loggers:
                if (mark_stopped := getattr(logger, "mark_stopped", None)) is not None:
                    mark_stopped(received)
            raise StoppedError(
                received,
                f"stopped by {signal.Signals(received).name} after step {trainer.global_step}, which is saved; "
                f"continue with: etude resume {trainer.default_root_dir}",
            )

    def _received_anywhere(self, trainer: lightning.Trainer) -> int:
        if trainer.world_size == 1:
            return self._received
        received = torch.tensor(self._received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        STOP.clear()
