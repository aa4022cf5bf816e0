"""A signal ends a run in good order: the step is finished, its checkpoint written, and the process leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning
import torch
import torch.distributed
from lightning.pytorch.callbacks import Callback

from etude.errors import EtudeError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end that a system asks for, and SLURM's notice of preemption."""


class StoppedError(EtudeError):
    """A run was stopped by a signal, after it was saved."""


class StopOnSignal(Callback):
    """Saves and leaves after the step in which a signal came; a second Ctrl-C leaves at once.

    Whichever rank was signalled, all save together and leave. The exit code is that of the signal: 130 or 143.

    Args:
        save: Saves a checkpoint of this moment unless there is one; False where it must not, before a validation.
    """

    def __init__(self, save: Callable[[lightning.Trainer], bool]) -> None:
        self._save = save
        self._received = 0
        self._previous: dict[int, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take over the signals."""
        self._step = trainer.global_step
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            os._exit(130)
        self._received = number

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """After a whole step: if any rank was signalled, save and leave.

        Raises:
            StoppedError: With the signal's exit code.
        """
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        received = self._received_anywhere(trainer)
        # Where a validation follows, nothing is saved before it: then the next step is the last.
        if received and self._save(trainer):
            stop = StoppedError(
                f"stopped by {signal.Signals(received).name} after step {self._step}; saved in {trainer.default_root_dir}; "
                f"continue with: etude resume {trainer.default_root_dir}"
            )
            # SLURM sends SIGUSR1 ahead of the SIGTERM that would follow.
            stop.exit_code = 130 if received == signal.SIGINT else 143
            raise stop

    def _received_anywhere(self, trainer: lightning.Trainer) -> int:
        if trainer.world_size == 1:
            return self._received
        received = torch.tensor(self._received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
