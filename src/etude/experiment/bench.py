"""What a training step costs, and what of it is the framework: side by side in one process, as ratios.

The same task, batches and optimizer run in a bare PyTorch loop and through Lightning's Trainer by turns. Times of a busy
machine drift; ratios of neighbours do not.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from etude.callbacks.log import LogTraining
from etude.configuration.check import plain
from etude.experiment.build import Experiment, build
from etude.experiment.record import RECORD, Record
from etude.experiment.tracking import RecordLogger
from etude.seeding import seed_micro_batch
from etude.tasks.base import Timetable
from etude.types import Batch

STEPS = 20
WARMUP = 3
ROUNDS = 5
PHASES = ("data", "forward", "backward", "optimizer")


def bench(config: DictConfig) -> dict[str, Any]:
    """Measure an experiment's training step.

    Returns:
        Tokens per second, milliseconds by phase, model FLOPs utilisation, padding, memory, and the ratio of Lightning's
        Trainer to a bare loop (1.00: as fast).
    """
    experiment = build(plain(config))
    task, data = experiment.task, experiment.data
    task.timetable = Timetable(experiment.root.seed, experiment.machine.micro_batches, 1.0, 1e9, False, 10, data.clock)
    state = {name: value.clone() for name, value in task.state_dict().items()}
    bare, through = [], []
    phases: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        task.load_state_dict(state)
        phases.append(_bare_loop(experiment))
        bare.append(sum(phases[-1].values()))
        task.load_state_dict(state)
        through.append(_lightning_loop(experiment))
    tokens = data.tokens_at(STEPS) - data.tokens_at(WARMUP)
    found = _summary(experiment, tokens, phases, bare, through)
    _print(found)
    return found


def _micro_batches(experiment: Experiment) -> Iterator[tuple[int, Batch]]:
    """Yield the batches of the first steps."""
    count = STEPS * experiment.machine.micro_batches
    yield from zip(range(count), experiment.data.train_dataloader(), strict=False)


def _bare_loop(experiment: Experiment) -> dict[str, float]:
    """Train the first steps by hand; return the seconds of each phase after the warm-up."""
    task, micro_batches = experiment.task.train(), experiment.machine.micro_batches
    optimizer = task.configure_optimizers()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spent = dict.fromkeys(PHASES, 0.0)
    mark = time.perf_counter()

    def lap(phase: str, index: int) -> None:
        nonlocal mark
        now = time.perf_counter()
        if index >= WARMUP * micro_batches:
            spent[phase] += now - mark
        mark = now

    for index, batch in _micro_batches(experiment):
        lap("data", index)
        seed_micro_batch(experiment.root.seed, 0, index, 0)
        total, _ = task.loss(batch)
        loss = total / batch.step_count
        lap("forward", index)
        loss.backward()
        lap("backward", index)
        if task.step_ended(index):
            torch.nn.utils.clip_grad_norm_(parameters, task.gradient_clip or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
        lap("optimizer", index)
    return spent


class _Timer(Callback):
    """Times the steps after the warm-up."""

    started = ended = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == WARMUP and not self.started:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


def _lightning_loop(experiment: Experiment) -> float:
    """Train the same steps through the Trainer, with the record written; return the seconds after the warm-up."""
    task, data = experiment.task, experiment.data
    timer = _Timer()
    with tempfile.TemporaryDirectory() as folder:
        logger = RecordLogger(Record(Path(folder) / RECORD), lambda: (task.global_step, 0, 0.0))
        trainer = experiment.machine.trainer(
            Path(folder),
            callbacks=[LogTraining(), timer],
            loggers=[logger],
            max_steps=STEPS,
            limit_val_batches=0,
            enable_progress_bar=False,
        )
        trainer.fit(task, datamodule=data)
    return timer.ended - timer.started


def _summary(
    experiment: Experiment,
    tokens: int,
    phases: list[dict[str, float]],
    bare: list[float],
    through: list[float],
) -> dict[str, Any]:
    steps = STEPS - WARMUP
    seconds = statistics.median(bare)
    flops, real, padded = _one_step(experiment)
    peak = matrix_multiply_flops()
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_padded": tokens / seconds * padded / real,
        "real_positions": real / padded,
        "milliseconds": {phase: 1000 * statistics.median(run[phase] for run in phases) / steps for phase in PHASES},
        "lightning_over_bare": statistics.median(a / b for a, b in zip(through, bare, strict=True)),
        "gflop_per_step": flops / 1e9,
        "gflops_matrix_multiply": peak / 1e9,
        "model_flops_utilisation": flops * steps / seconds / peak,
        "parameters": sum(parameter.numel() for parameter in experiment.task.parameters()),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
    }


def _one_step(experiment: Experiment) -> tuple[int, int, int]:
    """Return the FLOPs of the first step as torch counts them, and its real and its padded positions."""
    task = experiment.task.train()
    real = padded = 0
    with FlopCounterMode(display=False) as counter:
        for index, batch in _micro_batches(experiment):
            masks = [value for name, value in batch._asdict().items() if name.endswith("mask")]
            real += sum(int(mask.sum()) for mask in masks)
            padded += sum(mask.numel() for mask in masks)
            (task.loss(batch)[0] / batch.step_count).backward()
            if task.step_ended(index):
                break
    task.zero_grad()
    return counter.get_total_flops(), real, padded


def matrix_multiply_flops(size: int = 1024, repeats: int = 10) -> float:
    """Return the FLOP/s of an fp32 matrix multiply of model-like shape on the CPU: what utilisation is measured against."""
    left, right = torch.randn(2 * size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 4 * size**3 / best


def _print(found: dict[str, Any]) -> None:
    table = Table("measure", "value", title="one training step")
    for name, value in found.items():
        if isinstance(value, dict):
            for phase, milliseconds in value.items():
                table.add_row(f"{name}, {phase}", f"{milliseconds:.1f}")
        else:
            table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    Console(file=sys.stderr).print(table)
