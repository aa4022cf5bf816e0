"""Progress of a training: its stopwatch, the losses since the last line of its record, and spikes of the loss."""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch.distributed
from lightning.pytorch.utilities import rank_zero_only

from etude.tasks.run_context import Measured
from etude.tasks.running_sums import Sums

WINDOW = 100
"""Largest number of logged values that a new one is compared with."""

LEAST = 20
"""Smallest number of logged values that a new one is compared with: before that none is a spike."""

HEIGHT = 6.0
"""Deviations above the median from which a value is a spike."""

_log = logging.getLogger(__name__)


class TrainingProgress:
    """Stopwatch of a training, and the losses of its record.

    Attributes:
        losses: Sums over the steps since the last line of the record.
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
        """Return the seconds of training so far, summed over interruptions."""
        return self._seconds_before + time.monotonic() - self._started

    def leave_out(self, seconds: float) -> None:
        """Leave some seconds since the last line of the record out of the speed that the next one tells."""
        self.losses.seconds += seconds

    def line(
        self,
        module: lightning.LightningModule,
        step: int,
        tokens: int,
        run: Path,
        measured: Measured | None = None,
    ) -> dict[str, float]:
        """Return loss and speed of the steps since the last line, over all ranks, and start new sums.

        Args:
            module: The task that is trained.
            step: Steps so far.
            tokens: Tokens so far.
            run: Folder of the run, for warnings of spikes.
            measured: Measures these steps.
        """
        sums, seconds = self.losses, self.seconds()
        loss_sum, count = sums.total(module)
        terms = sums.terms(module)
        self.losses = Sums(tokens=tokens, seconds=seconds, step=step)
        line = {"train/loss": loss_sum / count} if count else {}  # nothing, if every step was left out
        line |= {f"train/loss_{name}": value / count for name, value in terms.items() if count}
        if count and self._spikes.observe(loss_sum / count, sums.step + 1, step, run):
            line["train/spike"] = 1.0
        taken = seconds - sums.seconds
        more = {} if measured is None else measured(sums.step, step, taken)
        return line | {"speed/tokens_per_second": (tokens - sums.tokens) / taken, **more}

    def state_dict(self, module: lightning.LightningModule) -> dict[str, Any]:
        """Return the state that a checkpoint holds."""
        loss_sum, count = self.losses.total(module)
        terms = self.losses.terms(module)
        return {
            "seconds": self.seconds(),
            "loss_sum": loss_sum,
            "count": count,
            "window": [self.losses.tokens, self.losses.seconds, self.losses.step],
            "last_losses": list(self._spikes.losses),
            **({"terms": terms} if terms else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any], rank: int) -> None:
        """Restore what `state_dict` returned. Its sums are over ranks: one rank carries them."""
        carries = rank == 0 or not torch.distributed.is_initialized()
        loss_sum, count = (state["loss_sum"], state["count"]) if carries else (0.0, 0)
        terms = {name: value if carries else 0.0 for name, value in state.get("terms", {}).items()}
        tokens, seconds, step = state["window"]
        self.losses = Sums(loss_sum, count, tokens, seconds, step, terms)
        self._spikes = Spikes(state["last_losses"])
        self._seconds_before = state["seconds"]


class Spikes:
    """Warns of spikes among the losses of the record; they have no effect on training.

    Attributes:
        losses: The last `WINDOW` losses, oldest first: the state that a checkpoint holds.

    Args:
        losses: Losses logged before.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = deque(losses, maxlen=WINDOW)

    def observe(self, loss: float, first: int, last: int, run: Path) -> bool:
        """Return whether a loss is a spike, and warn of it, once for all ranks.

        Args:
            loss: Mean loss of some steps, finite.
            first: The first of these steps.
            last: The last of them.
            run: Folder of the run.
        """
        before = list(self.losses)
        self.losses.append(loss)
        height = spike_height(loss, before)
        if height is not None:
            steps = f"step {last}" if first == last else f"the mean of steps {first} to {last}"
            argument = f"step={last}" if first == last else f"step=N, N from {first} to {last}"
            _warn(
                f"the loss spikes: {loss:.4g} at {steps}, {height:.3g} deviations above the median "
                f"{statistics.median(before):.4g} of the last {len(before)}; look closer with: etude replay {run} {argument}"
            )
        return height is not None


def spike_height(loss: float, before: Sequence[float]) -> float | None:
    """Return how far a loss is above those before it, if that makes it a spike, else None.

    The measure is (loss - median) / (1.4826 · MAD), with the median absolute deviation scaled to the standard deviation
    of a normal distribution (Leys et al. 2013, "Detecting outliers", section 2): unlike mean and standard deviation, both
    are robust against spikes that are in the window already. While the loss falls fast the median is far above it, and
    only large spikes are found.

    Args:
        loss: The logged value.
        before: Values logged before it, oldest first; the last `WINDOW` count.
    """
    window = before[-WINDOW:]
    if len(window) < LEAST:
        return None
    median = statistics.median(window)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in window)
    if not loss - median > HEIGHT * deviation:
        return None
    return (loss - median) / deviation if deviation else float("inf")


@rank_zero_only
def _warn(text: str) -> None:
    _log.warning("%s", text)
