"""How far a training is: its seconds, and what it did since the last line of its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch.distributed

from etude.tasks.loss_spikes import Spikes
from etude.tasks.running_sums import Sums


class TrainingProgress:
    """The stopwatch of a training, the losses since the last line of its record, and those of the lines before.

    Attributes:
        losses: Of the steps since the last line, summed.
    """

    def __init__(self) -> None:
        self.losses = Sums()
        self._spikes = Spikes()
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def start(self) -> None:
        """Start the stopwatch."""
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds of training so far, over all the times that the run was continued."""
        return self._seconds_before + time.monotonic() - self._started

    def line(self, module: lightning.LightningModule, step: int, tokens: int, run: Path) -> dict[str, float]:
        """Return loss and speed of the steps since the last line, over all ranks, and begin to count anew.

        Args:
            module: Whose training it is.
            step: Steps so far.
            tokens: Tokens so far.
            run: The run's folder, for what is said of spikes.
        """
        done, seconds = self.losses, self.seconds()
        loss_sum, count = done.total(module)
        self.losses = Sums(tokens=tokens, seconds=seconds, step=step)
        line = {"train/loss": loss_sum / count} if count else {}  # nothing, if every step was left out
        if count and self._spikes.saw(loss_sum / count, done.step + 1, step, run):
            line["train/spike"] = 1.0
        return line | {"speed/tokens_per_second": (tokens - done.tokens) / (seconds - done.seconds)}

    def state_dict(self, module: lightning.LightningModule) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        loss_sum, count = self.losses.total(module)
        return {
            "seconds": self.seconds(),
            "loss_sum": loss_sum,
            "count": count,
            "window": [self.losses.tokens, self.losses.seconds, self.losses.step],
            "last_losses": list(self._spikes.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any], rank: int) -> None:
        """Take back what `state_dict` returned. Its sums are over ranks: one rank carries them."""
        carries = rank == 0 or not torch.distributed.is_initialized()
        sums = (state["loss_sum"], state["count"]) if carries else (0.0, 0)
        self.losses = Sums(*sums, *state["window"])
        self._spikes = Spikes(state["last_losses"])
        self._seconds_before = state["seconds"]
