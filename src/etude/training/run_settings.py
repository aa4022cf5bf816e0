"""What a task and a store are told of their run, from the configuration."""

from __future__ import annotations

from pathlib import Path

from etude.checkpoints.retention import Retention
from etude.config.schema import Config
from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.tasks.run_context import RunContext
from etude.training.step_loop import Length


def timetable(root: Config, clock: Clock, micro_batches: int, run: Path, ranks: int = 1) -> RunContext:
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
    log_every = in_steps("log.every", root.log.every, clock)
    if budget.steps is None:
        warm, total, in_seconds = warmup.seconds or 0.0, budget.seconds or 0.0, True
    else:
        warm, total, in_seconds = float(warmup.steps or 0), float(budget.steps), False
    return RunContext(root.seed, micro_batches, warm, total, in_seconds, log_every, clock, run, ranks)


def retention(root: Config, clock: Clock) -> Retention:
    """Return which checkpoints are kept, in steps: also those that will be averaged.

    Raises:
        ConfigurationError: If those that stay for good are counted in seconds.
    """
    kept, average = root.checkpoint, root.average
    return Retention(
        kept.keep_last,
        max(kept.keep_best, *average.best) if average.best else kept.keep_best,
        root.validate.mode,
        keep_every=None if kept.keep_every is None else in_steps("checkpoint.keep_every", kept.keep_every, clock),
        keep_scored=max(average.last, default=0),
    )


def in_steps(key: str, duration: Duration, clock: Clock) -> int:
    """Return what a key says in steps, of which alone it is a function.

    Raises:
        ConfigurationError: If it is in seconds.
    """
    steps = clock.steps(duration)
    if steps is None:
        raise ConfigurationError(f"{key}={duration} is in seconds; write it in steps, epochs or tokens")
    return steps
