"""What a training spends, from its beginning to its end: over all ranks, and over all the times that it was continued."""

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
"""What is not summed."""

POLL = 10.0
"""Seconds between two looks at the energy counters, which begin anew at some time."""


@dataclass(frozen=True)
class Spent:
    """What clocks and meters say.

    Attributes:
        seconds: By the clock on the wall, validations included.
        validation_seconds: Of these, in validations.
        cpu_seconds: Of all cores, in processes that train and in those that make batches.
        gpu_seconds: Seconds times the GPUs that were held, busy or not.
        peak_memory_mb: The most memory of one process.
        peak_gpu_memory_mb: The most memory of one GPU.
        cpu_joules: By RAPL.
        gpu_joules: By NVML.
        unmetered_cpu_seconds: Of the CPU seconds, those on machines where RAPL could not be read.
        unmetered_gpu_seconds: Of the GPU seconds, those of GPUs that NVML could not be asked of.
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
        """Return both together; of memory, the larger."""
        return Spent(
            **{
                field.name: (max if field.name in LARGEST else sum)(
                    (getattr(self, field.name), getattr(other, field.name))
                )
                for field in fields(self)
            }
        )


class Meter(Callback):
    """Measures a training. What was spent is in each checkpoint: of a killed process, what came after its last is lost."""

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
        """Begin."""
        self._device = pl_module.device
        self._first_here, self._leader = trainer.local_rank == 0, trainer.is_global_zero
        self._rapl, self._nvml = Rapl.find(), Nvml.find(self._device)
        self._started, self._cpu_started, self._validated = time.monotonic(), cpu_seconds(), 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the counters from time to time."""
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
        """Look at the counters from time to time."""
        self._poll()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the validation."""
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the validation."""
        self._validated += time.monotonic() - self._validation_started

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End, while the processes that made batches are still there."""
        self._ended = self.spent()

    def state_dict(self) -> dict[str, Any]:
        """Return what was spent so far; all ranks ask together."""
        return asdict(self.spent())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._before = Spent(**state_dict)

    def spent(self) -> Spent:
        """Return what was spent so far, or until the end; all ranks ask together."""
        if self._ended is not None:
            return self._ended
        total = self._before
        for one in gathered([asdict(self._here())]):
            total += Spent(**one)
        return total

    def _here(self) -> Spent:
        """Return what this process has spent since it began; the wall's clock runs for the first of all."""
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
            # The counters are the machine's: one of its ranks reads them.
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
    """Return the seconds that cores have worked for this process, for its children that ended, and for those of Python's."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = sum(_seconds_of(child.pid) for child in multiprocessing.active_children() if child.pid is not None)
    return sum(one.ru_utime + one.ru_stime for one in used) + living


def _seconds_of(process: int) -> float:
    """Return a process's seconds in user and system mode as Linux tells them (proc_pid_stat(5)); 0 where it does not."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
