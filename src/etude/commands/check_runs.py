"""`etude check`: everything that can be known of runs before the first hour is spent on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from etude.commands.sweep import trials_to_check
from etude.config.schema import Config
from etude.errors import EtudeError
from etude.sweeps.display import describe
from etude.sweeps.sweep_plan import Member, SweepPlan, read_plan
from etude.training.preflight.forecast import Forecast, Preflight, preflight

_MOST_ERRORS = 20
_log = logging.getLogger(__name__)


class ChecksFailedError(EtudeError):
    """Some of the runs that were checked cannot be trained."""

    exit_code = 1


def check(words: Sequence[str], extra: Path | None = None) -> str:
    """Compose every run that words describe, build and try out one of each shape, and forecast time and memory.

    Args:
        words: As after `etude sweep` or `etude train -m`; of a search, each value and both ends of each range are checked.
        extra: A folder of the user's own configuration groups.

    Returns:
        A table with a line for each shape and, below it, the sum.

    Raises:
        ChecksFailedError: All errors of all runs at once, after the table of the others was logged.
    """
    plan = read_plan(words, extra)
    composed: list[tuple[Member, Config]] = []
    errors: dict[str, list[Member]] = {}
    codes: set[int] = set()
    for member in (member for trial in trials_to_check(plan) for member in plan.members(trial)):
        try:
            # What it starts from does not exist yet: shapes are those of its own configuration.
            composed.append((member, plan.compose(member)))
        except EtudeError as error:
            errors.setdefault(str(error), []).append(member)
            codes.add(error.exit_code)
    ready = [(member, config) for member, config in composed if member.start is None]
    answers = preflight([config for _, config in ready])
    for (member, _), answer in zip(ready, answers, strict=True):
        if answer.error is not None:
            errors.setdefault(str(answer.error), []).append(member)
            codes.add(answer.error.exit_code)
    text = _table([member for member, _ in ready], answers, plan, len(composed) - len(ready))
    if not errors:
        return text
    if any(answer.forecast for answer in answers):
        _log.info("%s", text.rstrip("\n"))
    said = [f"{_members(members)}: {error}" for error, members in list(errors.items())[:_MOST_ERRORS]]
    failure = ChecksFailedError(f"{sum(map(len, errors.values()))} runs cannot be trained: {'; '.join(said)}")
    failure.exit_code = codes.pop() if len(codes) == 1 else ChecksFailedError.exit_code
    raise failure


def _members(members: Sequence[Member]) -> str:
    named = describe(members[0].trial.assignment, members[0].seed) or "the run"
    return named if len(members) == 1 else f"{named} and {len(members) - 1} more"


def _table(members: Sequence[Member], answers: Sequence[Preflight], plan: SweepPlan, later: int) -> str:
    """Return a line for each forecast that differs from the others in more than its members."""
    groups: dict[Forecast, list[Member]] = {}
    for member, answer in zip(members, answers, strict=True):
        if answer.forecast is not None:
            groups.setdefault(answer.forecast, []).append(member)
    rows = [["runs", "parameters", "steps", "s a step", "time", "memory", "micro-batches", "first of them"]]
    rows += [
        [
            f"{len(some)}",
            f"{forecast.parameters:,}",
            f"{forecast.steps:,}",
            f"{forecast.seconds_per_step:.3g}",
            _time(forecast.seconds),
            f"{forecast.peak_bytes / 2**30:.2f} GiB {forecast.device}",
            f"{forecast.micro_batches}",
            describe(some[0].trial.assignment, some[0].seed),
        ]
        for forecast, some in groups.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    seconds = sum(forecast.seconds * len(some) for forecast, some in groups.items())
    if plan.searched:
        runs = plan.settings.trials * (len(plan.settings.seeds) or 1)
        seconds *= runs / max(1, sum(map(len, groups.values())))
        lines.append(f"about {_time(seconds)} of training in all for {runs} runs, one after the other")
    else:
        lines.append(f"{_time(seconds)} of training in all, one after the other")
    if later:
        lines.append(f"{later} runs start from others: they are composed, and not built before those are finished")
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
