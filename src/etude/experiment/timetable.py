"""What a task is told of its run, from the configuration."""

from __future__ import annotations

from pathlib import Path

from etude.clock import Clock, Duration
from etude.configuration.root import Root
from etude.errors import ConfigurationError
from etude.experiment.loop import Length
from etude.tasks.timetable import Timetable


def timetable(root: Root, clock: Clock, micro_batches: int, run: Path, ranks: int = 1) -> Timetable:
    """Return budget and warmup in one unit, steps or seconds, and the interval of logging in steps.

    Args:
        root: The configuration.
        clock: Of the plan.
        micro_batches: Slices of each step on each process.
        run: The run's folder.
        ranks: Processes whose work each process does.

    Raises:
        ConfigurationError: If the interval of logging is in seconds.
    """
    budget, warmup = Length.of(root.budget, clock), Length.of(Duration.parse(root.scheduler["warmup"]), clock)
    log_every = Length.of(root.log.every, clock).steps
    if log_every is None:
        raise ConfigurationError(f"log.every={root.log.every} is in seconds; write it in steps, epochs or tokens")
    if budget.steps is None:
        warm, total, in_seconds = warmup.seconds or 0.0, budget.seconds or 0.0, True
    else:
        warm, total, in_seconds = float(warmup.steps or 0), float(budget.steps), False
    return Timetable(root.seed, micro_batches, warm, total, in_seconds, log_every, run, ranks)
