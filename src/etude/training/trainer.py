"""Lightning's Trainer for a run: callbacks, checkpoints, loggers, and the loop that validates and ends at exact steps."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from etude.checkpoints.retention import Retention
from etude.checkpoints.saver import CheckpointSaver, FolderCheckpointIO
from etude.config.schema import Config
from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.runs.folder import CONFIGURATION, FACTS, PRETRAINED, TOKENIZER
from etude.runs.record import Record
from etude.runs.saved_run import SavedRun
from etude.sweeps.launchers.base import PRUNING
from etude.tasks.run_context import RunContext
from etude.training.build import Experiment, build_logger
from etude.training.callbacks.agreed_keys import AgreedKeys
from etude.training.callbacks.alerts import Alerts
from etude.training.callbacks.cost_meter import Meter
from etude.training.callbacks.early_stopping import StopWithoutProgress
from etude.training.callbacks.layer_norms import LayerNorms
from etude.training.callbacks.log_training import LogTraining
from etude.training.callbacks.progress_bar import StepProgressBar
from etude.training.callbacks.pruning import StopWhenPruned
from etude.training.callbacks.rank_places import RankPlaces
from etude.training.callbacks.record_position import RecordPosition
from etude.training.callbacks.speed_curves import SpeedCurves
from etude.training.callbacks.stall_watch import StallWatch
from etude.training.callbacks.stop_on_signal import StopOnSignal
from etude.training.callbacks.validation_curves import ValidationCurves
from etude.training.loggers.safe_logger import SafeLogger
from etude.training.loggers.tracking import RecordLogger
from etude.training.rank_watch import RankWatch
from etude.training.step_loop import Length, Milestones, StepLoop


def build_trainer(
    run: SavedRun, experiment: Experiment, record: Record | None, length: Length | None = None
) -> lightning.Trainer:
    """Build the trainer of a run and give the task its run context.

    Args:
        run: The run.
        experiment: The run's experiment.
        record: The run's record; None on ranks that do not write it.
        length: Length of a rehearsal, which ends with its only validation; None: the budget and the interval of the run.

    Raises:
        ConfigurationError: If an interval or the early stopping does not fit the data.
    """
    config, data, task, machine = experiment.config, experiment.data, experiment.task, experiment.machine
    curves = SpeedCurves(task, data, config.precision, machine.slices * machine.world_size)
    context = run_context(config, data.clock, machine.slices, run.path)
    compilation = [] if experiment.compilation is None else [experiment.compilation]

    def measured(first: int, last: int, seconds: float) -> dict[str, float]:
        compiled = {name: value for each in compilation for name, value in each.values().items()}
        return {**curves.values(first, last, seconds), **compiled}

    task.run_context = replace(context, measured=measured)
    milestones = Milestones(
        length or Length.of(config.budget, data.clock),
        length or Length.of(config.validate.every, data.clock),
        task.seconds,
        agreed=lambda decision: trainer.strategy.broadcast(decision) if machine.world_size > 1 else decision,
    )
    trainer = experiment.trainer(
        run.path,
        callbacks=[curves, *compilation, *_callbacks(run, experiment, record, milestones)],
        loggers=_loggers(run, experiment, record),
        plugins=[FolderCheckpointIO(checkpoint_companions(run))],
        max_steps=milestones.budget.steps or -1,
        max_epochs=-1,
        limit_val_batches=1.0 if "val" in data.splits else 0,
        enable_progress_bar=machine.progress_bar,
    )
    StepLoop.install(trainer, milestones)
    return trainer


def checkpoint_companions(run: SavedRun) -> dict[str, Path]:
    """Return the files and folders of a run that each checkpoint holds a copy of, so that it can rebuild its model."""
    pretrained = [PRETRAINED] if (run.path / PRETRAINED).exists() else []
    return {name: run.path / name for name in (CONFIGURATION, FACTS, TOKENIZER, *pretrained)}


def run_context(config: Config, clock: Clock, micro_batches: int, folder: Path, ranks: int = 1) -> RunContext:
    """Return the run context of a task.

    Args:
        config: The configuration.
        clock: Clock of the plan.
        micro_batches: Slices of each step on each process.
        folder: Folder of the run.
        ranks: Number of processes whose work each process does.

    Raises:
        ConfigurationError: If the logging interval is in seconds.
    """
    log_every = in_steps("log.every", config.log.every, clock)
    return RunContext(config.seed, micro_batches, config.budget, log_every, clock, folder, ranks)


def retention(config: Config, clock: Clock) -> Retention:
    """Return the rule for which checkpoints stay, in steps: checkpoints that will be averaged are among them.

    Raises:
        ConfigurationError: If the interval of permanent checkpoints is in seconds.
    """
    checkpoint, average = config.checkpoint, config.average
    keep_every = checkpoint.keep_every
    return Retention(
        checkpoint.keep_last,
        max(checkpoint.keep_best, *average.best) if average.best else checkpoint.keep_best,
        config.validate.mode,
        keep_every=None if keep_every is None else in_steps("checkpoint.keep_every", keep_every, clock),
        keep_scored=max(average.last, default=0),
    )


def early_stopping(config: Config, splits: Collection[str]) -> list[StopWithoutProgress]:
    """Return the early stopping callback, if the configuration sets `stop.patience`.

    Raises:
        ConfigurationError: If early stopping or checkpoint averaging is configured for data without a validation split.
    """
    stop, average = config.stop, config.average
    for key, value, off in (
        ("stop.patience", stop.patience, "null"),
        ("average.last", average.last, "[]"),
        ("average.best", average.best, "[]"),
    ):
        if value and "val" not in splits:
            raise ConfigurationError(f"{key} needs validations, but the data has no split 'val'; write {key}={off}")
    if stop.patience is None:
        return []
    return [StopWithoutProgress(config.validate.metric, config.validate.mode, stop.patience, stop.min_delta)]


def _callbacks(run: SavedRun, experiment: Experiment, record: Record | None, milestones: Milestones) -> list[Callback]:
    """Return the callbacks in the order of their calls: a step is logged before it is saved."""
    config, data, machine = experiment.config, experiment.data, experiment.machine
    every = Length.of(config.checkpoint.every, data.clock)
    saver = CheckpointSaver(
        run.checkpoints,
        retention(config, data.clock),
        every_steps=every.steps,
        every_seconds=every.seconds,
        metric=config.validate.metric if "val" in data.splits else None,
        validation_due=milestones.validation_due,
    )
    stopping = early_stopping(config, data.splits)
    # Ranks of a member inherit the variable.
    pruning = [StopWhenPruned(run.path, config.validate.metric)] if os.environ.get(PRUNING) == "1" else []
    state = [*stopping, *pruning, Meter(), RecordPosition(record), StopOnSignal(saver.save_now), saver]
    progress = [StepProgressBar()] if machine.progress_bar else []
    between_ranks: list[Callback] = []
    if machine.world_size > 1:
        watch = RankWatch(machine.timeout_seconds, machine.timeout, run.path)
        between_ranks = [RankPlaces(watch), AgreedKeys(in_steps("log.every", config.log.every, data.clock))]
    norms = [LayerNorms(in_steps("log.every", config.log.every, data.clock))] if config.log.norms else []
    stall = [] if config.log.stall_after is None else [StallWatch(config.log.stall_after)]
    return [
        *between_ranks,
        LogTraining(),
        ValidationCurves(),
        Alerts(),
        *stall,
        *norms,
        *experiment.callbacks,
        *state,
        *progress,
    ]


def _loggers(run: SavedRun, experiment: Experiment, record: Record | None) -> list[Logger]:
    """Return the record's logger and the guarded trackers of the configuration; none on ranks that write no record."""
    if record is None:
        return []
    task, data, trackers = experiment.task, experiment.data, experiment.config.logger

    def position() -> tuple[int, int, float]:
        return task.global_step, data.tokens_at(task.global_step), task.seconds()

    guarded = [SafeLogger(build_logger(node, run), position) for node in trackers.values()]
    return [RecordLogger(record, position), *guarded]


def in_steps(key: str, duration: Duration, clock: Clock) -> int:
    """Convert the duration of a key to steps.

    Raises:
        ConfigurationError: If it is in seconds.
    """
    steps = clock.steps(duration)
    if steps is None:
        raise ConfigurationError(f"{key}={duration} is in seconds; write it in steps, epochs or tokens")
    return steps
