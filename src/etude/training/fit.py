"""A run: one execution of an experiment in its own folder, begun, continued and concluded here."""

from __future__ import annotations

import inspect
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from etude.checkpoints.saver import CheckpointSaver, FolderCheckpointIO, newest_valid
from etude.config.check import plain
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.report import report, terminal_summary
from etude.runs.folder import (
    CHECKPOINTS,
    CONFIGURATION,
    DATA,
    FACTS,
    FINISHED,
    PRETRAINED,
    TOKENIZER,
    create,
    state,
    write_configuration,
    write_json,
    write_text,
)
from etude.runs.lock import RunLock
from etude.runs.record import RECORD, Record
from etude.runs.stored import stored_configuration
from etude.tokenization.base import Tokenizer
from etude.training import launch
from etude.training.attention_samples import inspect_samples
from etude.training.build import Experiment, build, build_data, make
from etude.training.callbacks.cost_meter import Meter
from etude.training.callbacks.log_training import LogTraining
from etude.training.callbacks.progress_bar import StepProgressBar
from etude.training.callbacks.record_position import RecordPosition
from etude.training.callbacks.stop_on_signal import StopOnSignal
from etude.training.checkpoint_averaging import keep_best_average
from etude.training.continuation import BUDGET, adopt, asked_changes, nothing_left
from etude.training.cost import conclude_cost
from etude.training.ending import stopping, why_ended
from etude.training.evaluation import evaluate_checkpoint
from etude.training.loggers.detail_tables import log_details
from etude.training.loggers.safe_logger import SafeLogger
from etude.training.loggers.tracking import RecordLogger
from etude.training.restore import find_checkpoint
from etude.training.run_facts import write_facts
from etude.training.run_settings import retention, timetable
from etude.training.step_loop import Length, Milestones, StepLoop
from etude.training.warm_start import load_start, with_its_model


def train(config: DictConfig, overrides: list[str]) -> Path | None:
    """Begin a run, or continue the one of that name, and conclude it.

    Args:
        config: The composed and checked configuration.
        overrides: What was written on the command line.

    Returns:
        The run's folder; None in a rank beyond the first, so that it is written once.
    """
    values = with_its_model(plain(config), overrides)
    root = Config.from_plain(values)
    run = _folder(root)
    if nothing_left(run, values):
        _say_finished(run)
        return run if launch.global_rank() == 0 else None
    if launch.global_rank() > 0:
        _wait_for(run, values)
        fit(run)
        return None
    execute(run, values, overrides)
    return run


def resume(run: Path, overrides: Mapping[str, Any] | None = None) -> Path:
    """Continue a run to its end; a finished one is left as it is.

    Args:
        run: The run's folder.
        overrides: Dotted keys of the machine and their values, such as `trainer.devices`: they change no result; and
            `budget`, to go on for longer.
    """
    values = stored_configuration(run, overrides, allowed=("trainer", "logger", "log", "paths", BUDGET))
    if nothing_left(run, values):
        _say_finished(run)
        return run
    execute(run, values, [f"{key}={value}" for key, value in (overrides or {}).items()])
    return run


def _say_finished(run: Path) -> None:
    print(f"{run} is finished; nothing to do", file=sys.stderr)  # noqa: T201


def prepare(config: DictConfig) -> dict[str, Any]:
    """Read the data, make the tokenizer and fill the cache, so that training begins at once.

    Returns:
        What `data.json` of a run would say.
    """
    values = with_its_model(plain(config))
    data = build_data(Config.from_plain(values), values, make(values["trainer"])())
    return data.describe()


def _folder(root: Config) -> Path:
    """Return the run's folder. Ranks that a launcher started must all come to the same one."""
    name = root.run.name
    if name is None and launch.started_outside():
        name = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
        if name in (None, "none"):
            raise ConfigurationError("run.name is null, but several processes need one folder; give run.name=NAME")
    return create(root.paths.outputs, root.run.experiment or "run", name)


def _wait_for(run: Path, values: Mapping[str, Any], seconds: float = 120.0) -> None:
    """Wait until rank 0 has written the configuration that this rank was started with."""
    deadline = time.monotonic() + seconds
    while state(run) == "new" or asked_changes(run, values):
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{run / CONFIGURATION} was not written in {seconds:g} s; has rank 0 failed?")
        time.sleep(0.1)


def execute(run: Path, values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Begin a run of a configuration, or continue it, and conclude it.

    Args:
        run: The run's folder.
        values: The checked configuration as plain values.
        overrides: What was written on the command line.

    Raises:
        ConfigurationError: If the run was begun with another configuration.
        FolderInUseError: If another process works in the folder.
    """
    with RunLock(run) as lock:
        if state(run) == "new":
            write_configuration(run, values, overrides)
        else:
            adopt(run, values, overrides)
        _train_and_report(run, lock)


def _train_and_report(run: Path, lock: RunLock) -> None:
    """Train what is left of a run, on as many processes as it asks for, and conclude it."""
    if state(run) != "finished":  # it is, where the process was killed before the report was written
        devices = stored_configuration(run)["trainer"]["devices"]
        if devices > 1 and not launch.started_outside():
            launch.launch(run, devices, lock)
        else:
            fit(run)
    report(run)
    terminal_summary(run)


def fit(run: Path) -> None:
    """Train a run from its newest checkpoint to its end in this process, which may be one rank of several.

    Ends with the scores of the best checkpoint on the test split, or on the validation split where there is none.
    """
    # The tokenizer is whole once the file is there that is written after it.
    tokenizer = Tokenizer.load(run / TOKENIZER) if (run / DATA).exists() else None
    checkpoint, first = newest_valid(run / CHECKPOINTS), launch.global_rank() == 0
    experiment = build(stored_configuration(run), tokenizer, None if checkpoint is None else run)
    if checkpoint is None and experiment.root.start is not None:
        load_start(experiment)
    if first:
        write_facts(run, experiment)
    record = Record(run / RECORD) if first else None
    trainer = _trainer(run, experiment, record)
    if checkpoint is None and record is not None:
        record.cut(0)
    with launch.noticing_lost_peers(run):
        trainer.fit(experiment.task, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=False)
        _conclude(run, experiment, trainer)


def _conclude(run: Path, experiment: Experiment, trainer: lightning.Trainer) -> None:
    loggers, first, step = trainer.loggers, trainer.is_global_zero, trainer.global_step
    ended = {"step": step, "ended": why_ended(experiment.root, trainer)}
    trainer.strategy.barrier("conclude")
    conclude_cost(run, experiment, trainer)
    averages = keep_best_average(
        run, experiment, retention(experiment.root, experiment.data.clock), step, _companions(run)
    )
    trainer.strategy.barrier("average")
    scores = evaluate_checkpoint(run, experiment, find_checkpoint(run, "best"))
    experiment.task.trainer = trainer  # the step and the seconds that the loggers write are those of the training
    for logger in loggers:
        if scores["split"] != "val":  # a validation has its line already, at the step of its weights
            logger.log_metrics(scores["scores"], step)
    details = scores.pop("details", {})
    log_details(details, scores["split"], loggers, step)
    if first:
        inspect_samples(run, loggers, step)
    for logger in loggers:
        close = getattr(logger, "close", None)
        if close is not None:
            close()
    if first:
        write_json(run / FINISHED, {**ended, **scores, **({"averages": averages} if averages else {})})


def _companions(run: Path) -> dict[str, Path]:
    """Return what a model is rebuilt from: it goes into each checkpoint."""
    pretrained = [PRETRAINED] if (run / PRETRAINED).exists() else []
    return {name: run / name for name in (CONFIGURATION, FACTS, TOKENIZER, *pretrained)}


def _trainer(run: Path, experiment: Experiment, record: Record | None) -> lightning.Trainer:
    """Return the trainer of a run. All that Lightning is told of exactness is told here."""
    root, data, task, machine = experiment.root, experiment.data, experiment.task, experiment.machine
    clock = data.clock
    budget = Length.of(root.budget, clock)
    task.timetable = timetable(root, clock, machine.micro_batches, run)
    milestones = Milestones(
        budget,
        Length.of(root.validate.every, clock),
        task.seconds,
        agreed=lambda decision: trainer.strategy.broadcast(decision) if machine.world > 1 else decision,
    )
    every = Length.of(root.checkpoint.every, clock)
    saver = CheckpointSaver(
        run / CHECKPOINTS,
        retention(root, clock),
        every_steps=every.steps,
        every_seconds=every.seconds,
        metric=root.validate.metric if "val" in data.splits else None,
        validation_due=milestones.validation_due,
    )
    own = [*stopping(root, data.splits), Meter(), RecordPosition(record), StopOnSignal(saver.save_now), saver]
    callbacks: list[Callback] = [LogTraining(), *experiment.callbacks, *own]  # a step is logged, then saved
    if machine.progress_bar:
        callbacks.append(StepProgressBar())
    trainer = machine.trainer(
        run,
        callbacks=callbacks,
        loggers=_loggers(run, experiment, record),
        plugins=[FolderCheckpointIO(_companions(run))],
        max_steps=budget.steps or -1,
        max_epochs=-1,
        limit_val_batches=1.0 if "val" in data.splits else 0,
        enable_progress_bar=machine.progress_bar,
    )
    StepLoop.install(trainer, milestones)
    return trainer


def _loggers(run: Path, experiment: Experiment, record: Record | None) -> list[Logger]:
    """Return the record's logger, and that of the configuration behind a guard; none on ranks that write no record."""
    if record is None:
        return []
    task, data, root = experiment.task, experiment.data, experiment.root

    def where() -> tuple[int, int, float]:
        return task.global_step, data.tokens_at(task.global_step), task.seconds()

    loggers: list[Logger] = [RecordLogger(record, where)]
    if root.logger is not None:
        make_logger = make(root.logger)
        given = {
            "run_folder": run,
            "save_dir": run,
            "run_id": _identity(run),
            "name": run.name,
            "tags": root.run.tags,
            "notes": root.run.notes,
            "config": stored_configuration(run),
        }
        takes = set(inspect.signature(make_logger).parameters) - set(root.logger)
        logger = make_logger(**{name: value for name, value in given.items() if name in takes})
        loggers.append(SafeLogger(logger, where))
    return loggers


def _identity(run: Path) -> str:
    """Return the run's id on dashboards: drawn when it begins, the same whenever it is continued."""
    path = run / "id"
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    return path.read_text()
