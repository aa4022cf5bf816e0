"""Forecasts of the time and memory of runs, and all their errors at once.

Configurations of equal shape are rehearsed once: they differ in nothing that changes a tensor's size or what is computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from etude.config.case import leaves
from etude.config.schema import Config
from etude.config.values import within
from etude.duration import Clock
from etude.errors import EtudeError, defects
from etude.optim.parameter_groups import build_optimizer
from etude.training.build import factory
from etude.training.from_runs.teacher_run import with_teacher_folder
from etude.training.machine import AUTO, Machine
from etude.training.preflight.trial import Outcome, attempt, choose
from etude.training.trainer import early_stopping, retention, run_context
from etude.training.warm_start import with_warm_start

UNSHAPED = (
    "seed",
    "budget",
    "validate.every",
    "checkpoint",
    "log",
    "stop",
    "run",
    "scheduler",
    "logger",
    "paths.outputs",
    "trainer.progress_bar",
    "trainer.timeout",
    "trainer.watts_per_core",
)
"""Keys, with all below them, that change no tensor's size and nothing that a step computes."""

DIALS = ("dropout", "attention_dropout", "activation_dropout", "head_dropout", "label_smoothing")
"""Names of arguments that do not either, as long as they are not zero."""

NEUTRAL: dict[str, Any] = {
    "log.every": "50step",
    "checkpoint.every": "1epoch",
    "checkpoint.keep_every": None,
    "stop.patience": None,
}
"""Values of a rehearsal in the place of what only one of several configurations of its shape may have got wrong."""

_ANY_CLOCK = Clock(100, 1000.0)


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        steps: Steps of the budget.
        seconds_per_step: Mean time of a training step.
        seconds: Time of all training steps. Validations, checkpoints and the evaluation at the end are not in it.
        peak_bytes: Largest memory of one process, validations and the end included: resident memory of a CPU, allocated
            memory of a GPU.
        device: Whose memory that is: `cpu`, `cuda` or `mps`.
        micro_batches: Micro-batches of each step on each device.
        parameters: Number of all parameters.
        trainable: Number of those that train.
    """

    steps: int
    seconds_per_step: float
    seconds: float
    peak_bytes: int
    device: str
    micro_batches: int
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Preflight:
    """What a preflight says of one configuration.

    Attributes:
        config: The configuration.
        forecast: What its run will take; None if it cannot be trained.
        error: Why it cannot; None if it can.
    """

    config: Config
    forecast: Forecast | None = None
    error: EtudeError | None = None


def preflight(configs: Sequence[Config], limit: int | None = None) -> list[Preflight]:
    """Build each configuration, take its largest steps, and say what its run will take, or why it cannot be trained.

    Configurations of equal shape are built once. Data is prepared, and stays in the cache; no run is left behind.

    Args:
        configs: The configurations.
        limit: Most bytes of resident memory that one process may take; None: what is free (see `memory_limit`).

    Returns:
        An answer for each configuration, in their order: an error of one ends none of the others.
    """
    rehearsed: dict[str, Outcome | EtudeError] = {}
    return [_preflight(config, rehearsed, limit) for config in configs]


def _preflight(config: Config, rehearsed: dict[str, Outcome | EtudeError], limit: int | None) -> Preflight:
    try:
        with defects():
            complete = with_teacher_folder(with_warm_start(config))
            _check_own_values(complete)
            key = shape(complete)
            if key not in rehearsed:
                rehearsed[key] = _rehearsed(complete, limit)
            outcome = rehearsed[key]
            if isinstance(outcome, EtudeError):
                return Preflight(config, error=outcome)
            early_stopping(complete, outcome.planned.splits)
            return Preflight(config, _forecast(complete, outcome))
    except EtudeError as error:
        return Preflight(config, error=error)


def shape(config: Config) -> str:
    """Return a text that configurations have in common if they differ in nothing that changes sizes or costs.

    In doubt they do not: what is not known to change neither is part of the shape. A seed is, where it draws the training
    examples; of the optimizer's fractions, and of `DIALS`, it is whether they are zero.
    """
    unshaped = UNSHAPED if config.limit.train is None else tuple(key for key in UNSHAPED if key != "seed")
    values = {key: _size(key, value) for key, value in leaves("", config.values) if not within(key, unshaped)}
    return json.dumps(values, sort_keys=True, default=str)


def _size(key: str, value: Any) -> Any:
    """Return what a value says about sizes and costs."""
    group, name = key.partition(".")[0], key.rpartition(".")[2]
    if not isinstance(value, int | float) or isinstance(value, bool) or (group != "optimizer" and name not in DIALS):
        return value
    return "not zero" if isinstance(value, float) and value else value


def _rehearsed(config: Config, limit: int | None) -> Outcome | EtudeError:
    neutral = config.updated(NEUTRAL)
    try:
        if config.trainer.arguments.get("micro_batches") == AUTO:
            return choose(neutral, limit)
        return attempt(neutral, limit)
    except EtudeError as error:
        return error


def _check_own_values(config: Config) -> None:
    """Check the values that configurations of equal shape may differ in.

    Raises:
        ConfigurationError: If one of them does not fit.
    """
    machine: Machine = factory(config.trainer)()
    machine.check()
    build_optimizer(factory(config.optimizer), nn.Linear(2, 2))
    factory(config.scheduler)().factor(1, config.budget, _ANY_CLOCK)
    run_context(config, _ANY_CLOCK, 1, Path())
    retention(config, _ANY_CLOCK)


def _forecast(config: Config, outcome: Outcome) -> Forecast:
    planned, each = outcome.planned, outcome.seconds_per_step
    steps = planned.clock.steps(config.budget)
    if steps is None:
        steps = max(1, int(config.budget.amount / each))
    return Forecast(
        steps,
        each,
        steps * each,
        outcome.peak_after(steps),
        outcome.device,
        outcome.micro_batches,
        planned.parameters,
        planned.trainable,
    )
