"""etude as a contender: an experiment trained through Lightning's Trainer, with its plan, its seeds and its record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from etude.commands.bench.training_step import fit
from etude.config.compose import compose
from etude.duration import Duration
from etude.tasks.run_context import RunContext
from etude.training.build import Experiment, build
from tests.bench.rounds import Stopwatch, Work


def built(*overrides: str) -> Experiment:
    """Return the experiment of a command line, ready to train."""
    experiment = build(compose(*overrides))
    experiment.task.run_context = RunContext(experiment.config.seed, 1, Duration(1e9, "step"), log_every=10)
    return experiment


class _StopAfter(Callback):
    """Stops the training when the round is over."""

    def __init__(self, watch: Stopwatch, experiment: Experiment) -> None:
        self.watch, self.data = watch, experiment.data

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        tokens = self.data.tokens_at(step) - self.data.tokens_at(step - 1)
        if self.watch.over(tokens, outputs["loss"].item()):
            trainer.should_stop = True


class ThroughTrainer:
    """Trains an experiment for some seconds, each round in another order of its data.

    Args:
        experiment: What `built` returned.
        seconds: Of a round.
    """

    def __init__(self, experiment: Experiment, seconds: float) -> None:
        self.experiment, self.seconds = experiment, seconds

    def __call__(self, number: int) -> Work:
        """Do a round."""
        data = self.experiment.data
        data.settings = replace(data.settings, seed=number)
        data._plans.clear()
        watch = Stopwatch(self.seconds)
        fit(self.experiment, _StopAfter(watch, self.experiment), max_epochs=-1)
        return watch.work
