"""`etude sweep`: runs of one search space, begun, continued, stopped and looked at."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from etude.atomic import make_folder
from etude.config.schema import Config
from etude.config.values import changes, is_machine, public_arguments, without_secrets
from etude.errors import ConfigurationError, EtudeError
from etude.report.learning_rates import is_range_test, write_learning_rates
from etude.report.range_curve import NoDescentError
from etude.report.sweep_page import write_sweep_report
from etude.report.writing import shortened_change
from etude.runs.folder import state
from etude.runs.lock import RunLock, holder
from etude.sweeps.display import SweepDisplay, describe
from etude.sweeps.engine import Engine
from etude.sweeps.launchers.base import MemberLauncher
from etude.sweeps.launchers.choice import open_launcher
from etude.sweeps.progress import wait_for
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from etude.sweeps.space import Assignment, Range, SearchParameter, Space, Values
from etude.sweeps.study import Study
from etude.sweeps.sweep_documents import (
    MEMBER,
    SWEEP,
    CodeState,
    SweepDocument,
    read_member,
    read_sweep,
    write_document,
)
from etude.sweeps.sweep_plan import Member, PlannedTrial, Stage, SweepPlan, equal_names, read_plan
from etude.sweeps.wandb_sweeps import as_yaml

STOP_SECONDS = 60.0
"""Seconds that a sweep has to end after it was asked to."""

_log = logging.getLogger(__name__)


class MembersFailedError(EtudeError):
    """Members of a sweep failed; the others are finished."""

    exit_code = 1


def run_sweep(plan: SweepPlan) -> SavedSweep:
    """Begin a sweep, or go on with the one of the same name, until all of its members have ended.

    Finished members stay as they are, unfinished ones continue from their checkpoints, and failed ones are tried again.

    Raises:
        ConfigurationError: If a member's configuration does not fit, the folder is that of another sweep, or code or
            configuration files have changed since it was begun.
        FolderInUseError: If another process runs the sweep.
        MembersFailedError: If members failed, once all others have ended.
        NoDescentError: If the members are range tests of the learning rate, and propose none.
    """
    members = check_members(plan)
    folder = members[0][1].paths.outputs / plan.experiment / plan.name
    known = (folder / SWEEP).exists()
    if known:
        _check_same(folder, plan)
        if _is_complete(folder, plan):
            _log.info("%s is finished; nothing to do", folder)
            return _with_proposals(SavedSweep.open(folder))
        _check_drift(folder, plan)
    with closing(open_launcher(plan.launcher)) as launcher:
        make_folder(folder)
        with RunLock(folder, "sweep"):
            document = read_sweep(folder) if known else _begin(folder, plan, members, launcher)
            study = Study(folder, plan.name, document.mode, plan.pruner.pruner())
            display = SweepDisplay()
            engine = Engine(folder, plan, launcher, study, document.threads, display.show)
            engine.restore()
            with display.open():
                engine.run()
            write_sweep_report(SavedSweep.open(folder))
    if engine.failed:
        raise MembersFailedError(_failures(engine))
    return _with_proposals(SavedSweep.open(folder))


def _with_proposals(sweep: SavedSweep) -> SavedSweep:
    """Write and show what learning rates a sweep of range tests proposes; of other sweeps, nothing.

    Raises:
        NoDescentError: If none of its trials proposes one.
    """
    if not is_range_test(sweep):
        return sweep
    rates = write_learning_rates(sweep)
    if not rates.proposes:
        raise NoDescentError(f"{rates.found[0].line}; plot: {rates.page}")
    for one in rates.found:
        sys.stderr.write(f"etude: {one.line}; plot: {rates.page}\n")
    return sweep


def _failures(engine: Engine) -> str:
    lines = [
        f"member {entry.member.number:03d} ({describe(entry.member.trial.assignment, entry.member.seed) or 'the only one'}): "
        f"{entry.document.attempts[-1].reason if entry.state == 'failed' and entry.document.attempts else entry.state}"
        for entry in engine.failed
    ]
    return f"{len(lines)} of {len(engine.entries)} members failed, the others are finished: {'; '.join(lines)}"


def check_members(plan: SweepPlan) -> list[tuple[Member, Config]]:
    """Compose and check the members of a plan; of a search, enough of them to see each value and both ends of each range.

    Raises:
        ConfigurationError: At the first that does not fit, or if a search has nothing to judge by.
    """
    members = [member for trial in trials_to_check(plan) for member in plan.members(trial)]
    if not members:
        raise ConfigurationError("the sweep has no members: no combination of its stages agrees")
    composed = [(member, plan.compose(member)) for member in members]
    named: dict[str, int] = {}
    for member, config in composed:
        if named.setdefault(str(config.run.name), member.number) != member.number:
            raise equal_names(str(config.run.name), (named[str(config.run.name)], member.number))
    judged = {(config.validate.metric, config.validate.mode) for _, config in composed}
    if plan.searched and len(judged) > 1:
        metrics = ", ".join(sorted(metric for metric, _ in judged))
        raise ConfigurationError(f"the members are judged by different scores ({metrics}); searcher=grid compares none")
    return composed


def trials_to_check(plan: SweepPlan) -> list[PlannedTrial]:
    """Return all trials of a grid; of a search, enough of them to see each value and both ends of each range."""
    return _corners(plan) if plan.searched else plan.grid()


def _corners(plan: SweepPlan) -> list[PlannedTrial]:
    space = plan.stages[-1].space
    count = max(len(one.domain.options) if not isinstance(one.domain, Range) else 2 for one in space.parameters)
    return [PlannedTrial(index, plan.stages[-1], _corner(space, index)) for index in range(count)]


def _corner(space: Space, index: int) -> Assignment:
    assignment: Assignment = {}
    for one in space.parameters:
        if not one.exists(assignment):
            continue
        if isinstance(one.domain, Range):
            assignment[one.name] = (one.domain.low, one.domain.high)[index % 2]
        else:
            labels = list(one.domain.options)
            assignment[one.name] = labels[index % len(labels)]
    return assignment


def _begin(
    folder: Path, plan: SweepPlan, members: Sequence[tuple[Member, Config]], launcher: MemberLauncher
) -> SweepDocument:
    # A member that others start from is judged by them.
    starts = {stage.start for stage in plan.stages}
    judged = [config.validate for member, config in members if member.trial.stage.name not in starts]
    metrics = {validation.metric for validation in judged}
    document = SweepDocument(
        command=public_arguments(plan.command),
        extra=None if plan.extra is None else str(plan.extra.resolve()),
        identity=plan.identity,
        metric=metrics.pop() if len(metrics) == 1 else None,
        mode=judged[0].mode,
        threads=max(1, launcher.cores // launcher.slots),
        code=CodeState.now(),
    )
    write_document(folder, document)
    return document


def _check_same(folder: Path, plan: SweepPlan) -> None:
    differing = [f"{key}: {change}" for key, change in changes(read_sweep(folder).identity, plan.identity).items()]
    if differing:
        raise ConfigurationError(
            f"{folder} was begun from another space ({'; '.join(differing[:3])}); give this one a name: sweep.name=NAME"
        )


def _is_complete(folder: Path, plan: SweepPlan) -> bool:
    sweep = SavedSweep.open(folder)
    ended = [member for member in sweep.members if member.state in ("finished", "pruned", "rejected")]
    seeds = len(plan.settings.seeds) or 1
    wanted = plan.settings.trials if plan.searched else len(plan.grid())
    return len(ended) == len(sweep.folders) >= wanted * seeds


def _check_drift(folder: Path, plan: SweepPlan) -> None:
    """Compare code and configuration files with those that the sweep was begun with.

    Raises:
        ConfigurationError: If they differ, unless that was allowed.
    """
    drift = read_sweep(folder).code.drift()
    if not plan.searched:
        for trial in plan.grid():
            for member in plan.members(trial):
                config = plan.compose(member)
                path = folder / str(config.run.name)
                if (path / MEMBER).exists() and state(path) != "finished":
                    drift |= changes(read_member(path).config, without_secrets(config.values))
    drift = {key: change for key, change in drift.items() if not is_machine(key)}
    if not drift:
        return
    said = "; ".join(f"{key}: {shortened_change(change)}" for key, change in list(drift.items())[:5])
    if plan.settings.drift == "refuse":
        raise ConfigurationError(
            f"since {folder} was begun this has changed: {said}; put it back, or write sweep.drift=allow to go on with what is "
            "there now"
        )
    _log.warning("since %s was begun this has changed: %s", folder, said)


# On sweeps that exist


def sweep_status(sweep: SavedSweep) -> str:
    """Return a table of a sweep's members as text: a line for each, after one that sums them up."""
    members = sweep.members
    states = [member.state for member in members]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no members yet"
    process = holder(sweep.path)
    lines = [f"{sweep.path}: {counts}; {f'process {process} runs it' if process else 'nothing runs it'}"]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row, widths in _aligned(members)
    ]
    return "\n".join(lines) + "\n"


def _aligned(members: Sequence[SavedMember]) -> list[tuple[list[str], list[int]]]:
    rows = [
        [
            f"{member.document.number:03d}",
            member.state,
            f"step {member.progress.step:,}",
            "" if member.progress.score is None else f"{member.metric} {member.progress.score:.5g}",
            describe(member.document.assignment, member.document.seed),
            member.reason,
        ]
        for member in members
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [(row, widths) for row in rows]


def stop_sweep(sweep: SavedSweep) -> str:
    """Ask the process that runs a sweep to stop in good order, and wait until it has.

    Raises:
        ConfigurationError: If nothing runs it.
        EtudeError: If it does not end in time.
    """
    process = holder(sweep.path)
    if process is None:
        raise ConfigurationError(f"nothing runs {sweep.path}; go on with it: etude sweep resume {sweep.path}")
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    if not wait_for(sweep.path, STOP_SECONDS):
        raise EtudeError(
            f"process {process}, which runs {sweep.path}, has not ended in {STOP_SECONDS:g} s; kill -9 {process} ends it"
        )
    return sweep_status(sweep)


def resume_sweep(sweep: SavedSweep, words: Sequence[str] = ()) -> SavedSweep:
    """Go on with a sweep by the words that it was begun with, and others: `sweep.trials=40`, `hydra.launcher.slots=2`."""
    document = sweep.document
    keys = {word.partition("=")[0].lstrip("+~") for word in words}
    kept = [word for word in document.command if word.partition("=")[0].lstrip("+~") not in keys]
    named = [*kept, f"sweep.name={sweep.path.name}"] if "sweep.name" not in "".join(kept) else kept
    outputs = sweep.path
    for _ in Path(read_experiment(sweep)).parts:
        outputs = outputs.parent
    place = (
        []
        if any(word.startswith("paths.outputs=") for word in (*kept, *words))
        else [f"paths.outputs={outputs.parent}"]
    )
    return run_sweep(read_plan([*named, *place, *words], Path(document.extra) if document.extra else None))


def read_experiment(sweep: SavedSweep) -> str:
    """Return the folder of the sweep inside the folder of all runs, without the sweep's own name."""
    for folder in sweep.folders:
        experiment = str(read_member(folder).config["run"]["experiment"])
        return experiment.rpartition("/")[0]
    raise ConfigurationError(f"{sweep.path} has no members yet; give the command again that began it")


def sweep_runs(words: Sequence[str], extra: Path | None = None) -> SavedSweep:
    """Run the sweep that the words after `etude sweep` describe; see `run_sweep`."""
    return run_sweep(read_plan(words, extra))


def run_jobs(jobs: Sequence[Sequence[str]], words: Sequence[str], extra: Path | None = None) -> list[float | None]:
    """Run jobs as the members of a sweep, and return the best validation of each; None of one that has none.

    Args:
        jobs: The words of each.
        words: Words of the sweep, such as `sweep.name=NAME`.
        extra: A folder of the user's own configuration groups.
    """
    plan = read_plan(words, extra)
    space = Space((SearchParameter("job", Values({place: tuple(job) for place, job in enumerate(jobs)})),))
    sweep = run_sweep(replace(plan, stages=(Stage("", (), space),)))
    return [member.progress.score for member in sweep.members]


def wandb_sweep(words: Sequence[str], extra: Path | None = None) -> str:
    """Return the file that `wandb sweep` takes for the sweep that the words describe, whose members are checked first.

    Args:
        words: As after `etude sweep`.
        extra: A folder of the user's own configuration groups.

    Raises:
        ConfigurationError: If a member's configuration does not fit, or W&B cannot do what the sweep does.
    """
    plan = read_plan(words, extra)
    return as_yaml(plan, check_members(plan)[0][1])
