"""`etude bench train`: what a training step costs, and what of it is the framework, as ratios of neighbours in time.

The same task, batches and optimizer run in a bare PyTorch loop and through Lightning's Trainer by turns. Times of a busy
machine drift; ratios of neighbours do not.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from etude.config.check import plain
from etude.data.base import PlannedData
from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Record
from etude.seeding import seed_micro_batch
from etude.tasks.run_context import RunContext
from etude.training.build import Experiment, build
from etude.training.callbacks.log_training import LogTraining
from etude.training.cost import training_flops
from etude.training.loggers.tracking import RecordLogger
from etude.training.peak_flops import matrix_multiply_flops, peak_memory_mb
from etude.training.warm_start import with_its_model
from etude.types import Batch

STEPS = 20
WARMUP = 3
ROUNDS = 5
PHASES = ("data", "forward", "backward", "optimizer")


def bench(config: DictConfig) -> dict[str, Any]:
    """Measure an experiment's training step.

    Returns:
        Tokens per second, milliseconds by phase, model FLOPs utilisation (None: what the task costs is not known),
        padding, memory, and the ratio of Lightning's Trainer to a bare loop (1.00: as fast).

    Raises:
        ConfigurationError: If the experiment is for several processes.
    """
    experiment = build(with_its_model(plain(config)))
    if experiment.machine.world > 1:
        raise ConfigurationError(
            "etude bench measures one process; write trainer.devices=1 trainer.nodes=1 (command line)"
        )
    task, data = experiment.task, experiment.data
    task.timetable = RunContext(experiment.root.seed, experiment.machine.micro_batches, 1.0, 1e9, False, 10, data.clock)
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
    write_table(found, "one training step")
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
    """Train the same steps through the Trainer; return the seconds after the warm-up."""
    timer = _Timer()
    fit(experiment, timer, max_steps=STEPS)
    return timer.ended - timer.started


def fit(experiment: Experiment, timer: Callback, **limits: Any) -> None:
    """Train from the first step on through Lightning's Trainer, with the record written, as a run does.

    Args:
        experiment: What to train.
        timer: A callback that looks on, and may stop it.
        limits: Arguments of the Trainer that end the training.
    """
    task = experiment.task
    with tempfile.TemporaryDirectory() as folder:
        logger = RecordLogger(Record(Path(folder) / RECORD), lambda: (task.global_step, 0, 0.0))
        trainer = experiment.machine.trainer(
            Path(folder),
            callbacks=[LogTraining(), timer],
            loggers=[logger],
            limit_val_batches=0,
            enable_progress_bar=False,
            **limits,
        )
        trainer.fit(task, datamodule=experiment.data)


def _summary(
    experiment: Experiment,
    tokens: int,
    phases: list[dict[str, float]],
    bare: list[float],
    through: list[float],
) -> dict[str, Any]:
    steps = STEPS - WARMUP
    seconds = statistics.median(bare)
    flops = [training_flops(experiment.task, experiment.data, step) for step in (WARMUP, STEPS)]
    work = None if flops[0] is None or flops[1] is None else flops[1] - flops[0]
    peak, real = matrix_multiply_flops(), real_positions(experiment.data)
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_padded": tokens / seconds / real,
        "real_positions": real,
        "milliseconds": {phase: 1000 * statistics.median(run[phase] for run in phases) / steps for phase in PHASES},
        "lightning_over_bare": statistics.median(a / b for a, b in zip(through, bare, strict=True)),
        "gflop_per_step": None if work is None else work / steps / 1e9,
        "gflops_matrix_multiply": peak / 1e9,
        "model_flops_utilisation": None if work is None else work / seconds / peak,
        "parameters": sum(parameter.numel() for parameter in experiment.task.parameters()),
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
    }


def real_positions(data: PlannedData) -> float:
    """Return the share of positions that are not padding, over the whole first epoch as it is planned."""
    plan = data.plan(0)
    lengths = data.splits["train"].lengths
    sides = lengths.reshape(len(lengths), -1)
    real = padded = 0
    for step, part in np.ndindex(plan.steps, data.micro_batches):
        rows = sides[plan.examples(step, micro_batch=part, micro_batches=data.micro_batches)]
        real += int(rows.sum())
        padded += len(rows) * int(rows.max(axis=0, initial=0).sum())
    return real / padded


def write_table(found: dict[str, Any], title: str) -> None:
    """Show what was measured to people, on stderr."""
    table = Table("measure", "value", title=title)
    for name, value in found.items():
        if isinstance(value, dict):
            for part, number in value.items():
                table.add_row(f"{name}, {part}", f"{number:,.1f}")
        else:
            table.add_row(name, _shown(value))
    Console(file=sys.stderr).print(table)


def _shown(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
