"""Curves of a training's speed: utilisation of the device, padding and memory, in each line of the record."""

from __future__ import annotations

from collections.abc import Iterator

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback

from etude.data.base import PlannedData
from etude.data.plan import positions
from etude.tasks.base import Task
from etude.tasks.running_sums import gathered
from etude.training.peak_flops import PeakFlops, peak_flops, peak_memory_mb

UTILISATION, PADDING = "speed/utilisation", "speed/padding"
MEMORY, GPU_MEMORY = "speed/memory_mb", "speed/gpu_memory_mb"
"""Names of what is measured."""


class SpeedCurves(Callback):
    """Measures the steps between two lines of the record. All of it is known on the host: nothing waits for the device.

    Args:
        task: The task that is trained.
        data: Its data.
        precision: Lightning's precision, on which the peak of the device depends.
        slices: Slices of each step: micro-batches of all ranks.
    """

    def __init__(self, task: Task, data: PlannedData, precision: str, slices: int) -> None:
        self._task = task
        self._data = data
        self._precision = precision
        self._slices = slices
        self._device = torch.device("cpu")
        self._peak: float | None = None
        self._example_flops: Float[np.ndarray, " N"] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the peak of all devices together, and the operations of each example, before the stopwatch starts."""
        self._device = pl_module.device
        examples = self._data.splits["train"]
        flops = self._task.step_flops(examples.lengths, examples.counts)
        self._example_flops = None if flops is None else flops.astype(np.float64)
        peak: PeakFlops | None = peak_flops(self._device, self._precision)
        self._peak = None if peak is None else sum(rank["flops"] for rank in gathered([{"flops": peak.flops}]))

    def values(self, first: int, last: int, seconds: float) -> dict[str, float]:
        """Return the measurements of some steps.

        `speed/utilisation` is the share of the peak FLOP/s of all devices: operations at real tokens, divided by the seconds
        between the two lines, validations and checkpoints included. `speed/padding` is the share of padded positions.
        `speed/memory_mb` is the largest memory of the first rank so far, in MiB, and `speed/gpu_memory_mb` that of its GPU.

        Args:
            first: Steps done at the line before.
            last: Steps done now.
            seconds: Seconds between them.
        """
        measured = {MEMORY: peak_memory_mb()}
        if self._device.type == "cuda":
            measured[GPU_MEMORY] = torch.cuda.max_memory_allocated(self._device) / 2**20
        if last > first:
            measured[PADDING] = self._padding(first, last)
        if self._example_flops is not None and self._peak is not None and seconds > 0:
            flops = sum(self._flops(self._example_flops, *part) for part in self._parts(first, last))
            measured[UTILISATION] = flops / seconds / self._peak
        return measured

    def _padding(self, first: int, last: int) -> float:
        lengths = self._data.splits["train"].lengths
        real = padded = 0
        for epoch, begin, end in self._parts(first, last):
            counted = positions(self._data.plan(epoch), lengths, range(begin, end), self._slices)
            real, padded = real + counted[0], padded + counted[1]
        return 1 - real / padded

    def _flops(self, of_examples: Float[np.ndarray, " N"], epoch: int, begin: int, end: int) -> float:
        """Return the operations of some steps of an epoch."""
        plan = self._data.plan(epoch)
        return sum(float(of_examples[plan.examples(step)].sum()) for step in range(begin, end))

    def _parts(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield epoch, first step and end of the steps' part in each epoch."""
        steps = self._data.clock.steps_per_epoch
        while first < last:
            epoch, begin = divmod(first, steps)
            end = min(steps, begin + last - first)
            yield epoch, begin, end
            first += end - begin
