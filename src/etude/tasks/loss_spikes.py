"""Spikes of the training loss: found among the logged values, said and recorded, and of no effect on training."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

WINDOW = 100
"""Logged values that a new one is compared with, at most."""

LEAST = 20
"""Logged values that a new one is compared with, at least: before that none is a spike."""

HEIGHT = 6.0
"""Deviations above the median from which on a value is a spike."""

_log = logging.getLogger(__name__)


def spike_height(loss: float, before: Sequence[float]) -> float | None:
    """Return how far a loss is above those before it, if that makes it a spike, else None.

    The measure is (loss - median) / (1.4826 · MAD), with the median absolute deviation scaled to the standard deviation
    of a normal distribution (Leys et al. 2013, "Detecting outliers", section 2): unlike mean and standard deviation,
    both stand still under the spikes that are in the window already. While the loss falls fast the median is far above
    it, and only large spikes are found.

    Args:
        loss: The logged value.
        before: The values logged before it, oldest first; the last `WINDOW` count.
    """
    window = before[-WINDOW:]
    if len(window) < LEAST:
        return None
    median = statistics.median(window)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in window)
    if not loss - median > HEIGHT * deviation:
        return None
    return (loss - median) / deviation if deviation else float("inf")


class Spikes:
    """The last losses of the record, against which the next one is held.

    Attributes:
        losses: At most `WINDOW` of them, oldest first: what a checkpoint must hold.

    Args:
        losses: Those of before.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = deque(losses, maxlen=WINDOW)

    def saw(self, loss: float, first: int, last: int, run: Path) -> bool:
        """Whether a loss is a spike; if so it is said, once for all ranks.

        Args:
            loss: The mean over some steps, finite.
            first: The first of these steps.
            last: The last of them.
            run: The run's folder.
        """
        before = list(self.losses)
        self.losses.append(loss)
        height = spike_height(loss, before)
        if height is not None:
            steps = f"step {last}" if first == last else f"the mean of steps {first} to {last}"
            which = f"step={last}" if first == last else f"step=N, N from {first} to {last}"
            _say(
                f"the loss spikes: {loss:.4g} at {steps}, {height:.3g} deviations above the median "
                f"{statistics.median(before):.4g} of the last {len(before)}; look closer with: etude replay {run} {which}"
            )
        return height is not None


@rank_zero_only
def _say(text: str) -> None:
    _log.warning("%s", text)
