"""A run: one execution of an experiment in its own folder, begun, continued and concluded here."""

from __future__ import annotations

import inspect
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from etude.callbacks.log import LogTraining
from etude.callbacks.progress import Progress
from etude.callbacks.signals import StopOnSignal
from etude.clock import Clock, Duration
from etude.configuration.check import plain
from etude.configuration.root import Root
from etude.errors import ConfigurationError, DataError
from etude.experiment import launch
from etude.experiment.build import Experiment, build, build_data, make
from etude.experiment.continuation import BUDGET, adopt, asked_changes, nothing_left
from etude.experiment.evaluate import evaluate_checkpoint
from etude.experiment.loop import Length, Milestones, StepLoop
from etude.experiment.manifest import manifest, parameters
from etude.experiment.position import RecordPosition
from etude.experiment.record import RECORD, Record
from etude.experiment.report import report, terminal_summary
from etude.experiment.restored import find_checkpoint
from etude.experiment.safe_logger import SafeLogger
from etude.experiment.stored import stored_configuration
from etude.experiment.tracking import RecordLogger
from etude.store.durable import storage_errors, sync_tree
from etude.store.folder import (
    CONFIGURATION,
    FINISHED,
    create,
    state,
    write_configuration,
    write_json,
    write_text,
)
from etude.store.lock import RunLock
from etude.store.saver import CheckpointSaver, FolderCheckpointIO, Retention, newest_valid
from etude.tasks.base import Timetable
from etude.tokenization.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
DATA = "data.json"


def train(config: DictConfig, overrides: list[str]) -> Path | None:
    """Begin a run, or continue the one of that name, and conclude it.

    Args:
        config: The composed and checked configuration.
        overrides: What was written on the command line.

    Returns:
        The run's folder; None in a rank beyond the first, so that it is written once.
    """
    values = plain(config)
    run = _folder(Root.from_plain(values))
    if nothing_left(run, values):
        _say_finished(run)
        return run if launch.global_rank() == 0 else None
    if launch.global_rank() > 0:
        _wait_for(run, values)
        fit(run)
        return None
    with RunLock(run) as lock:
        if state(run) == "new":
            write_configuration(run, values, overrides)
        else:
            adopt(run, values, overrides)
        _execute(run, lock)
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
    with RunLock(run) as lock:
        adopt(run, values, [f"{key}={value}" for key, value in (overrides or {}).items()])
        _execute(run, lock)
    return run


def _say_finished(run: Path) -> None:
    print(f"{run} is finished; nothing to do", file=sys.stderr)  # noqa: T201


def prepare(config: DictConfig) -> dict[str, Any]:
    """Read the data, make the tokenizer and fill the cache, so that training begins at once.

    Returns:
        What `data.json` of a run would say.
    """
    values = plain(config)
    data = build_data(Root.from_plain(values), values, make(values["trainer"])())
    return data.describe()


def _folder(root: Root) -> Path:
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


def _execute(run: Path, lock: RunLock) -> None:
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
    tokenizer = Tokenizer.load(run / "tokenizer") if (run / DATA).exists() else None
    experiment = build(stored_configuration(run), tokenizer)
    first = launch.global_rank() == 0
    if first:
        _write_facts(run, experiment)
    record = Record(run / RECORD) if first else None
    trainer = _trainer(run, experiment, record)
    checkpoint = newest_valid(run / CHECKPOINTS)
    if checkpoint is None and record is not None:
        record.cut(0)
    with launch.noticing_lost_peers(run):
        trainer.fit(experiment.task, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=False)
        _conclude(run, experiment, trainer)


def _conclude(run: Path, experiment: Experiment, trainer: lightning.Trainer) -> None:
    loggers, first, step = trainer.loggers, trainer.is_global_zero, trainer.global_step
    trainer.strategy.barrier("conclude")
    scores = evaluate_checkpoint(run, experiment, find_checkpoint(run, "best"))
    experiment.task.trainer = trainer  # the step and the seconds that the loggers write are those of the training
    for logger in loggers:
        logger.log_metrics(scores["scores"], step)
        close = getattr(logger, "close", None)
        if close is not None:
            close()
    if first:
        write_json(run / FINISHED, {"step": step, **scores})


def _write_facts(run: Path, experiment: Experiment) -> None:
    """Write what the run is made of, once; refuse to continue on other data."""
    described = experiment.data.describe()
    known = run / DATA
    if known.exists():
        before = json.loads(known.read_text())["fingerprint"]
        if before != described["fingerprint"]:
            raise DataError(
                f"the data of {run} has changed since it was begun (fingerprint {before[:12]} -> "
                f"{described['fingerprint'][:12]}); put it back, or begin a new run: run.name=NAME"
            )
        return
    with storage_errors(run / "tokenizer"):
        experiment.data.tokenizer.save(run / "tokenizer")
        sync_tree(run / "tokenizer")
    write_json(run / "facts.json", experiment.task.facts.to_json())
    made_of = manifest(
        seed=experiment.root.seed,
        data_fingerprint=described["fingerprint"],
        module=experiment.task,
        command=sys.argv,
    )
    write_json(run / "manifest.json", made_of)
    write_json(known, described)
    _tell(experiment, described)


def _tell(experiment: Experiment, described: Mapping[str, Any]) -> None:
    """Say in a few lines what is about to be trained."""
    counts = parameters(experiment.task)
    _log.info("rows %s, vocabulary %d", described["rows"], described["tokenizer"]["vocabulary"])
    for split, reasons in described["dropped"].items():
        for reason, count in reasons.items():
            _log.info("%s: %d rows %s", split, count, reason)
    train, total = counts["trainable"], counts["total"]
    _log.info("%s of %s parameters train (%.3g %%)", f"{train:,}", f"{total:,}", 100 * train / total)
    _log.info("%d steps an epoch", described["steps_per_epoch"])
    _tell_late(experiment)


def _tell_late(experiment: Experiment) -> None:
    """Warn of parameters that would begin to train only after the budget's end."""
    clock, courses = experiment.data.clock, experiment.task.courses
    steps = Length.of(experiment.root.budget, clock).steps
    late = [course.first(clock) for course in courses.values() if steps is not None and course.first(clock) >= steps]
    if late:
        _log.warning(
            "%d of the tensors that train would begin to after the budget of %d steps, the last at step %d; "
            "a shorter finetune.every reaches them",
            len(late),
            steps,
            max(late) + 1,
        )


def _trainer(run: Path, experiment: Experiment, record: Record | None) -> lightning.Trainer:
    """Return the trainer of a run. All that Lightning is told of exactness is told here."""
    root, data, task, machine = experiment.root, experiment.data, experiment.task, experiment.machine
    clock = data.clock
    budget = Length.of(root.budget, clock)
    task.timetable = _timetable(root, clock, machine.micro_batches)
    milestones = Milestones(
        budget,
        Length.of(root.validate.every, clock),
        task.seconds,
        agreed=lambda decision: trainer.strategy.broadcast(decision) if machine.world > 1 else decision,
    )
    every = Length.of(root.checkpoint.every, clock)
    saver = CheckpointSaver(
        run / CHECKPOINTS,
        _retention(root, clock),
        every_steps=every.steps,
        every_seconds=every.seconds,
        metric=root.validate.metric if "val" in data.splits else None,
        validation_due=milestones.validation_due,
    )
    own = [RecordPosition(record), StopOnSignal(saver.save_now), saver]
    callbacks: list[Callback] = [LogTraining(), *experiment.callbacks, *own]  # a step is logged, then saved
    if machine.progress_bar:
        callbacks.append(Progress())
    companions = {name: run / name for name in (CONFIGURATION, "facts.json", "tokenizer")}
    trainer = machine.trainer(
        run,
        callbacks=callbacks,
        loggers=_loggers(run, experiment, record),
        plugins=[FolderCheckpointIO(companions)],
        max_steps=budget.steps or -1,
        max_epochs=-1,
        limit_val_batches=1.0 if "val" in data.splits else 0,
        enable_progress_bar=machine.progress_bar,
    )
    StepLoop.install(trainer, milestones)
    return trainer


def _retention(root: Root, clock: Clock) -> Retention:
    """Return which checkpoints are kept, in steps."""
    kept = root.checkpoint
    every = None if kept.keep_every is None else _in_steps("checkpoint.keep_every", kept.keep_every, clock)
    return Retention(kept.keep_last, kept.keep_best, root.validate.mode, every)


def _in_steps(key: str, duration: Duration, clock: Clock) -> int:
    """Return what a key says in steps, of which alone it is a function."""
    steps = Length.of(duration, clock).steps
    if steps is None:
        raise ConfigurationError(f"{key}={duration} is in seconds; write it in steps, epochs or tokens")
    return steps


def _timetable(root: Root, clock: Clock, micro_batches: int) -> Timetable:
    """Return budget and warmup in one unit, steps or seconds, and the interval of logging in steps."""
    budget, warmup = Length.of(root.budget, clock), Length.of(Duration.parse(root.scheduler["warmup"]), clock)
    log_every = _in_steps("log.every", root.log.every, clock)
    if budget.steps is None:
        seconds = (warmup.seconds or 0.0, budget.seconds or 0.0)
        return Timetable(root.seed, micro_batches, *seconds, True, log_every, clock)
    return Timetable(root.seed, micro_batches, warmup.steps or 0.0, budget.steps, False, log_every, clock)


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
