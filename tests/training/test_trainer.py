"""Run context and retention from the configuration, in steps; early stopping and averages need validations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.config.compose import compose
from etude.config.schema import CheckpointAverages, Config
from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.training.trainer import early_stopping, in_steps, retention, run_context

CLOCK = Clock(steps_per_epoch=50, tokens_per_step=100.0)


def config(*words: str) -> Config:
    return compose("experiment=translation/demo", *words)


@pytest.mark.parametrize(("text", "steps"), [("7step", 7), ("0.5epoch", 25), ("1ktok", 10)])
def test_every_unit_but_seconds_is_steps(text: str, steps: int) -> None:
    assert in_steps("log.every", Duration.parse(text), CLOCK) == steps


def test_seconds_are_refused_with_the_key() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^log\.every=30s is in seconds; write it in steps, epochs or tokens$"
    ):
        in_steps("log.every", Duration.parse("30s"), CLOCK)


def test_checkpoints_that_will_be_averaged_are_kept() -> None:
    plain = retention(config("checkpoint.keep_last=3"), CLOCK)
    assert (plain.keep_last, plain.keep_best, plain.mode, plain.keep_every) == (3, 1, "max", None)
    averaged = retention(config("average.last=[3,5]", "average.best=[4]", "checkpoint.keep_every=1epoch"), CLOCK)
    assert (averaged.keep_best, averaged.keep_scored, averaged.keep_every) == (4, 5, 50)


def test_a_run_context_has_the_seed_the_micro_batches_and_the_logging_interval(tmp_path: Path) -> None:
    context = run_context(config("seed=3", "log.every=1epoch"), CLOCK, micro_batches=4, folder=tmp_path, ranks=2)
    assert (context.seed, context.micro_batches, context.log_every, context.ranks) == (3, 4, 50, 2)


def test_averages_are_refused_without_a_validation_split() -> None:
    root: Any = SimpleNamespace(stop=SimpleNamespace(patience=None), average=CheckpointAverages(last=(3,)))
    with pytest.raises(ConfigurationError, match=r"average.last needs validations.*write average.last=\[\]"):
        early_stopping(root, {"train"})
