"""Meter of the time, energy and memory that a training takes, over all ranks and over interruptions."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from etude.tasks.running_sums import gathered
from etude.training.energy import Nvml, Rapl
from etude.training.peak_flops import peak_memory_mb

LARGEST = ("peak_memory_mb", "peak_gpu_memory_mb")
"""Quantities of which the largest is kept, not the sum."""

POLL = 10.0
"""Seconds between two readings of the energy counters, which wrap around."""


@dataclass(frozen=True)
class Spent:
    """Time, energy and memory that a training took.

    Attributes:
        seconds: Wall-clock time, validations included.
        validation_seconds: The part of it spent in validations.
        cpu_seconds: CPU time of all cores, in processes that train and in those that make batches.
        gpu_seconds: Wall-clock time multiplied by the number of GPUs held, busy or not.
        peak_memory_mb: Largest memory of one process.
        peak_gpu_memory_mb: Largest memory of one GPU.
        cpu_joules: Energy of CPUs, measured by RAPL.
        gpu_joules: Energy of GPUs, measured by NVML.
        unmetered_cpu_seconds: The part of the CPU time on machines whose RAPL counters cannot be read.
        unmetered_gpu_seconds: The part of the GPU time on GPUs that NVML does not measure.
    """

    seconds: float = 0.0
    validation_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float = 0.0
    cpu_joules: float = 0.0
    gpu_joules: float = 0.0
    unmetered_cpu_seconds: float = 0.0
    unmetered_gpu_seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Return the sum of both; of memory, the larger."""
        return Spent(
            **{
                field.name: (max if field.name in LARGEST else sum)(
                    (getattr(self, field.name), getattr(other, field.name))
                )
                for field in fields(self)
            }
        )


class Meter(Callback):
    """Measures a training. Its state is in each checkpoint: what a killed process spent after its last one is lost."""

    def __init__(self) -> None:
        self._before = Spent()
        self._ended: Spent | None = None
        self._device = torch.device("cpu")
        self._first_here = True
        self._leader = True
        self._rapl: Rapl | None = None
        self._nvml: Nvml | None = None
        self._started = self._polled = time.monotonic()
        self._cpu_started = 0.0
        self._validation_started = 0.0
        self._validated = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        self._device = pl_module.device
        self._first_here, self._leader = trainer.local_rank == 0, trainer.is_global_zero
        self._rapl, self._nvml = Rapl.find(), Nvml.find(self._device)
        self._started, self._cpu_started, self._validated = time.monotonic(), cpu_seconds(), 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the counters from time to time."""
        self._poll()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read the counters from time to time."""
        self._poll()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the validation."""
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the validation."""
        self._validated += time.monotonic() - self._validation_started

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop, while the processes that make batches still exist."""
        self._ended = self.spent()

    def state_dict(self) -> dict[str, Any]:
        """Return what was spent so far; called by all ranks together."""
        return asdict(self.spent())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self._before = Spent(**state_dict)

    def spent(self) -> Spent:
        """Return what was spent so far, or until the end; called by all ranks together."""
        if self._ended is not None:
            return self._ended
        total = self._before
        for rank in gathered([asdict(self._here())]):
            total += Spent(**rank)
        return total

    def _here(self) -> Spent:
        """Return what this process has spent since it started; wall-clock time counts on the first rank alone."""
        seconds, busy = time.monotonic() - self._started, cpu_seconds() - self._cpu_started
        gpu = self._device.type == "cuda"
        held = seconds if gpu else 0.0
        return Spent(
            seconds=seconds if self._leader else 0.0,
            validation_seconds=self._validated if self._leader else 0.0,
            cpu_seconds=busy,
            gpu_seconds=held,
            peak_memory_mb=peak_memory_mb(),
            peak_gpu_memory_mb=torch.cuda.max_memory_allocated(self._device) / 2**20 if gpu else 0.0,
            # The counters are the machine's: its first rank reads them.
            cpu_joules=self._rapl.joules() if self._rapl and self._first_here else 0.0,
            gpu_joules=self._nvml.joules() if self._nvml else 0.0,
            unmetered_cpu_seconds=0.0 if self._rapl else busy,
            unmetered_gpu_seconds=0.0 if self._nvml else held,
        )

    def _poll(self) -> None:
        if self._rapl is not None and time.monotonic() - self._polled > POLL:
            self._rapl.joules()
            self._polled = time.monotonic()


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its children that ended, and of those started by multiprocessing."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = sum(_seconds_of(child.pid) for child in multiprocessing.active_children() if child.pid is not None)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + alive


def _seconds_of(process: int) -> float:
    """Return a process's seconds in user and system mode as Linux reports them (proc_pid_stat(5)); 0 elsewhere."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
