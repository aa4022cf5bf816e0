"""`etude bench train`: the cost of a training step, and the share of it that is the framework's.

The same task, batches and optimizer run alternately in a bare PyTorch loop and through Lightning's Trainer. Times on a busy
machine drift; ratios of consecutive measurements do not.
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
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from etude.config.schema import Config
from etude.data.base import PlannedData
from etude.data.plan import positions
from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Record
from etude.seeding import seed_micro_batch
from etude.tasks.run_context import RunContext
from etude.training.build import Experiment, build
from etude.training.callbacks.log_training import LogTraining
from etude.training.cost import training_flops
from etude.training.from_runs.teacher_run import with_teacher, with_teacher_folder
from etude.training.loggers.tracking import RecordLogger
from etude.training.peak_flops import matrix_multiply_flops, peak_memory_mb
from etude.training.warm_start import with_warm_start
from etude.types import Batch

STEPS = 20
WARMUP = 3
"""Steps of each round that are not timed."""
ROUNDS = 5
PHASES = ("data", "forward", "backward", "optimizer")


def bench(config: Config) -> dict[str, Any]:
    """Measure an experiment's training step.

    Returns:
        Tokens per second, milliseconds by phase, model FLOPs utilisation (None if the task's FLOPs are unknown), padding,
        memory, and the ratio of the time of Lightning's Trainer to that of the bare loop (1.00: as fast).

    Raises:
        ConfigurationError: If the experiment needs several processes.
    """
    experiment = with_teacher(build(with_teacher_folder(with_warm_start(config))))
    if experiment.machine.world_size > 1:
        raise ConfigurationError(
            "etude bench measures one process; write trainer.devices=1 trainer.nodes=1 (command line)"
        )
    task, data = experiment.task, experiment.data
    task.run_context = RunContext(
        experiment.config.seed, experiment.machine.slices, Duration(1e9, "step"), log_every=10, clock=data.clock
    )
    state = {name: value.clone() for name, value in task.state_dict().items()}
    bare, through_trainer = [], []
    phases: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        task.load_state_dict(state)
        phases.append(_bare_loop(experiment))
        bare.append(sum(phases[-1].values()))
        task.load_state_dict(state)
        through_trainer.append(_lightning_loop(experiment))
    tokens = data.tokens_at(STEPS) - data.tokens_at(WARMUP)
    measurements = _summary(experiment, tokens, phases, bare, through_trainer)
    write_table(measurements, "one training step")
    return measurements


def _micro_batches(experiment: Experiment) -> Iterator[tuple[int, Batch]]:
    """Yield the micro-batches of the first steps with their indices."""
    count = STEPS * experiment.machine.slices
    yield from zip(range(count), experiment.data.train_dataloader(), strict=False)


def _bare_loop(experiment: Experiment) -> dict[str, float]:
    """Train the first steps in a plain loop; return the seconds of each phase after the warm-up."""
    task, micro_batches = experiment.task.train(), experiment.machine.slices
    optimizer = task.configure_optimizers()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    phase_seconds = dict.fromkeys(PHASES, 0.0)
    mark = time.perf_counter()

    def lap(phase: str, index: int) -> None:
        nonlocal mark
        now = time.perf_counter()
        if index >= WARMUP * micro_batches:
            phase_seconds[phase] += now - mark
        mark = now

    for index, batch in _micro_batches(experiment):
        lap("data", index)
        seed_micro_batch(experiment.config.seed, 0, index, 0)
        total, *_ = task.training_loss(batch)
        loss = total / batch.step_count
        lap("forward", index)
        loss.backward()
        lap("backward", index)
        if task.step_ended(index):
            torch.nn.utils.clip_grad_norm_(parameters, task.gradient_clip or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
        lap("optimizer", index)
    return phase_seconds


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
    """Train from the first step through Lightning's Trainer, writing the record as a run does.

    Args:
        experiment: The experiment.
        timer: A callback that measures, and may stop training.
        limits: Arguments of the Trainer that end training.
    """
    task = experiment.task
    with tempfile.TemporaryDirectory() as folder:
        logger = RecordLogger(Record(Path(folder) / RECORD), lambda: (task.global_step, 0, 0.0))
        trainer = experiment.trainer(
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
    through_trainer: list[float],
) -> dict[str, Any]:
    steps = STEPS - WARMUP
    seconds = statistics.median(bare)
    flops = [training_flops(experiment.task, experiment.data, step) for step in (WARMUP, STEPS)]
    work = None if flops[0] is None or flops[1] is None else flops[1] - flops[0]
    peak, real_fraction = matrix_multiply_flops(), real_positions(experiment.data)
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_padded": tokens / seconds / real_fraction,
        "real_positions": real_fraction,
        "milliseconds": {phase: 1000 * statistics.median(run[phase] for run in phases) / steps for phase in PHASES},
        "lightning_over_bare": statistics.median(a / b for a, b in zip(through_trainer, bare, strict=True)),
        "gflop_per_step": None if work is None else work / steps / 1e9,
        "gflops_matrix_multiply": peak / 1e9,
        "model_flops_utilisation": None if work is None else work / seconds / peak,
        "parameters": sum(parameter.numel() for parameter in experiment.task.parameters()),
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
    }


def real_positions(data: PlannedData) -> float:
    """Return the fraction of positions that are not padding, over the plan of the first epoch."""
    plan = data.plan(0)
    real, padded = positions(plan, data.splits["train"].lengths, range(plan.steps), data.micro_batches)
    return real / padded


def write_table(measurements: dict[str, Any], title: str) -> None:
    """Print measurements to stderr as a table."""
    table = Table("measure", "value", title=title)
    for name, value in measurements.items():
        if isinstance(value, dict):
            for part, number in value.items():
                table.add_row(f"{name}, {part}", f"{number:,.1f}")
        else:
            table.add_row(name, _formatted(value))
    Console(file=sys.stderr, force_jupyter=False).print(table)


def _formatted(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
