"""Distillation: a run that learns from the probabilities of another run (`distillation.teacher=RUN`)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from etude.checkpoints.checkpoint import read_weights
from etude.config.schema import Config
from etude.errors import ConfigurationError, DataError
from etude.models.losses.distillation import Distillation
from etude.runs.folder import resolve
from etude.runs.saved_run import SavedRun
from etude.tasks.teaching.teacher import Teacher
from etude.training.build import Experiment, build_task, factory
from etude.training.warm_start import describe_source

TEACHER = "distillation.teacher"

_log = logging.getLogger(__name__)


def with_teacher_folder(config: Config) -> Config:
    """Return a configuration that names its teacher by the whole path of its folder; unchanged without a teacher.

    Raises:
        ConfigurationError: If there is no such run, or it has another task.
    """
    if config.distillation is None:
        return config
    run = SavedRun.open(resolve(config.distillation.arguments["teacher"], config.paths.outputs))
    own, other = config.task.target, run.config.task.target
    if own != other:
        raise ConfigurationError(
            f"{TEACHER}={run.path} has learned another task ({other.rpartition('.')[2]}, not {own.rpartition('.')[2]}); "
            "name a run of the same task, or write distillation=none"
        )
    return config.updated({TEACHER: str(run.path)})


def with_teacher(experiment: Experiment) -> Experiment:
    """Return an experiment whose task has its teacher, read once from the best checkpoint; unchanged without a teacher.

    It is no part of the task's parameters and checkpoints.

    Raises:
        ConfigurationError: If the teacher's run or checkpoint does not exist, or it does not fit the student.
    """
    config = experiment.config
    if config.distillation is None:
        return experiment
    distillation: Distillation = factory(config.distillation)()
    run = SavedRun.open(resolve(distillation.teacher, config.paths.outputs))
    check_teacher(run, experiment)
    checkpoint = run.checkpoint("best")
    task = build_task(run.config, run.facts, run)
    task.load_state_dict(read_weights(checkpoint))
    experiment.task.teacher = Teacher(task, distillation)
    _log.info("learns from %s of %s", checkpoint.name, run.path)
    return replace(experiment, teacher=describe_source(run, checkpoint))


def check_teacher(run: SavedRun, experiment: Experiment) -> None:
    """Refuse a teacher that predicts other things than its student, or reads shorter texts.

    Raises:
        ConfigurationError: If it does.
    """
    own, other = experiment.data.tokenizer.fingerprint, run.tokenizer.fingerprint
    if own != other:
        raise ConfigurationError(
            f"{TEACHER}={run.path} has another vocabulary (tokenizer {other[:12]}, not {own[:12]}); write "
            f"tokenizer=stored tokenizer.folder={run.path}/tokenizer ~tokenizer.vocabulary"
        )
    facts, taught = experiment.data.facts, run.facts
    for name in ("classes", "segments"):
        if getattr(facts, name) != getattr(taught, name):
            raise ConfigurationError(
                f"{TEACHER}={run.path} has other {name} ({_shown(getattr(taught, name))}) than the data "
                f"({_shown(getattr(facts, name))}); name a run of data with the same"
            )
    longest, reads = experiment.data.max_length, run.config.model.arguments.get("max_length")
    if isinstance(reads, int) and longest > reads:
        raise ConfigurationError(
            f"{TEACHER}={run.path} reads {reads} tokens at most, and data.max_length={longest}; write data.max_length={reads}"
        )


def refuse_changed_teacher(run: SavedRun, experiment: Experiment) -> None:
    """Compare the teacher's weights with those that the run was begun with.

    Raises:
        DataError: If they have changed.
    """
    recorded, now = run.manifest.teacher, experiment.teacher
    if recorded is not None and now is not None and recorded.weights != now["weights"]:
        raise DataError(
            f"the teacher of {run.path} has changed since it was begun ({recorded.checkpoint} {recorded.weights[:12]} -> "
            f"{now['checkpoint']} {now['weights'][:12]}); put {Path(recorded.run)} back, or begin a new run: run.name=NAME"
        )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
