"""The loop of a sweep: it starts members, takes note of how they end, and decides what is tried next.

Everything that it knows is in the sweep's folder, written before it matters: a trial before its members start, a member's
configuration before its process does. What has finished is known by the runs' own files. So it can be killed at any time,
and goes on when it is called again.
"""

from __future__ import annotations

import logging
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from etude.atomic import make_folder, storage_errors, write_json
from etude.config.schema import Config
from etude.config.trust import trusted
from etude.config.values import public_arguments, without_secrets
from etude.errors import ConfigurationError, DataError, FolderInUseError
from etude.runs.documents import PRUNED
from etude.runs.folder import state
from etude.runs.reading import read_conclusion
from etude.signals import SIGNALS, StoppedError, leave_at_once
from etude.sweeps.launchers.base import Ending, Job, MemberLauncher
from etude.sweeps.progress import STATE, MemberState, best, last_line, scores
from etude.sweeps.pruners import NoPruner
from etude.sweeps.reports import answer, open_reports
from etude.sweeps.study import Study
from etude.sweeps.sweep_documents import MEMBER, Attempt, MemberDocument, read_member, write_document
from etude.sweeps.sweep_plan import Member, PlannedTrial, SweepPlan, equal_names

POLL = 0.1
"""Seconds between two looks at what members report."""

MOST_REFUSALS = 30
"""Attempts, a second apart, to get hold of a member's folder."""

PERMANENT = (ConfigurationError.exit_code, DataError.exit_code)
"""Exit codes of errors that trying again does not cure."""

_log = logging.getLogger(__name__)


@dataclass
class MemberEntry:
    """A member as the loop knows it.

    Attributes:
        member: What it is.
        config: Its configuration.
        folder: Its run's folder.
        document: What is stored of it.
        state: How far it is.
        failures: Attempts of this session that failed without getting any further.
        refusals: Attempts that found the folder in use.
        score: The best of its validations, once it has ended.
        not_before: The time before which it is not tried again.
        prunes: Whether it waits after each validation for the word of the sweep.
    """

    member: Member
    config: Config
    folder: Path
    document: MemberDocument
    state: MemberState = "waiting"
    failures: int = 0
    refusals: int = 0
    score: float | None = None
    not_before: float = 0.0
    prunes: bool = False

    @property
    def devices(self) -> int:
        """Devices that it takes."""
        return int(self.config.trainer.arguments.get("devices", 1))


@dataclass
class Engine:
    """Runs a sweep to its end.

    Attributes:
        folder: The sweep's folder.
        plan: What it does.
        launcher: Where members run.
        study: Its trials.
        threads: Threads that compute in each member with one device.
        show: Called with the engine whenever something may have changed.
        entries: The members so far.
        trials: The trials so far.
    """

    folder: Path
    plan: SweepPlan
    launcher: MemberLauncher
    study: Study
    threads: int
    show: Callable[[Engine], None]
    entries: dict[int, MemberEntry] = field(default_factory=dict)
    trials: dict[int, PlannedTrial] = field(default_factory=dict)
    _stop: int = 0

    # What is known

    def restore(self) -> None:
        """Take up what the folder holds: trials, members, and what became of them."""
        known = {trial.number: trial for trial in self.study.trials}
        if self.plan.searched:
            planned = [PlannedTrial(one.number, self.plan.stages[-1], one.assignment) for one in known.values()]
        else:
            planned = self.plan.grid()
        judged = {stage.start for stage in self.plan.stages}
        for trial in planned:
            self.trials[trial.number] = trial
            if trial.number not in known and trial.stage.name not in judged:
                space = trial.stage.space
                own = {one.name for one in space.parameters}
                self.study.add(trial.number, space, {name: v for name, v in trial.assignment.items() if name in own})
            for member in self.plan.members(trial):
                self._enter(member)
        for trial in planned:
            self._take_up(trial, known[trial.number].state if trial.number in known else "running")

    def _take_up(self, trial: PlannedTrial, stored: str) -> None:
        """Go on with a trial where it was left: one that failed is tried again, one that was judged stays as it is."""
        left = [entry for entry in self.members_of(trial) if entry.state == "waiting"]
        if stored == "failed" and left:
            self.study.again(trial.number)
        for entry in left if stored in ("finished", "pruned") else []:
            entry.state = "rejected"
        self._conclude(trial)

    def _enter(self, member: Member) -> None:
        """Compose a member, and store it before it is started."""
        config = self.plan.compose(member)
        folder = config.paths.outputs / str(config.run.experiment) / str(config.run.name)
        taken = next((entry for entry in self.entries.values() if entry.folder == folder), None)
        if taken is not None and taken.member.number != member.number:
            raise equal_names(str(config.run.name), (taken.member.number, member.number))
        stored = read_member(folder) if (folder / MEMBER).exists() else None
        document = MemberDocument(
            number=member.number,
            trial=member.trial.number,
            stage=member.trial.stage.name,
            start=member.start,
            seed=member.seed,
            assignment=member.trial.assignment,
            words=public_arguments(member.words),
            config=without_secrets(config.values),
            attempts=stored.attempts if stored else [],
        )
        if stored is None:
            make_folder(folder)
            write_document(folder, document)
        entry = MemberEntry(member, config, folder, stored or document)
        self.entries[member.number] = entry
        if state(folder) == "finished":
            self._finish(entry)

    def members_of(self, trial: PlannedTrial) -> list[MemberEntry]:
        """Return the members of a trial."""
        return [entry for entry in self.entries.values() if entry.member.trial.number == trial.number]

    @property
    def running(self) -> list[MemberEntry]:
        """The members that run now."""
        return [entry for entry in self.entries.values() if entry.state == "running"]

    @property
    def failed(self) -> list[MemberEntry]:
        """The members that failed, and those that cannot start because of that."""
        return [entry for entry in self.entries.values() if entry.state in ("failed", "skipped")]

    # The loop

    def run(self) -> None:
        """Run members until nothing is left to try.

        Raises:
            StoppedError: If a signal stopped the sweep, after its members have saved.
            EtudeError: If the sweep cannot go on; its members are then ended.
        """
        with self._stopping():
            try:
                while self._stop == 0:
                    self._fill()
                    if not self.running and not self._comes_later():
                        break
                    self._wait()
                self._end_members()
            finally:
                self.launcher.close()
                self._save()
        if self._stop:
            left = sum(entry.state in ("waiting", "stopped") for entry in self.entries.values())
            raise StoppedError(
                self._stop,
                f"stopped by {signal.Signals(self._stop).name} with {left} members to go; continue with: "
                f"etude sweep resume {self.folder}",
            )

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Let signals stop the sweep in good order; a second Ctrl-C leaves at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop and number == signal.SIGINT:
                leave_at_once()
            self._stop = self._stop or number

        previous = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _end_members(self) -> None:
        """Pass the signal on, and wait until the members have saved."""
        for entry in self.running:
            self.launcher.send(entry.member.number, signal.SIGTERM)
        while self.running:
            self._wait()

    def _wait(self) -> None:
        for ending in self.launcher.wait(POLL):
            self._ended(self.entries[ending.number], ending)
        for entry in self.running:
            if entry.prunes:
                self._answer(entry)
        self.show(self)

    def _fill(self) -> None:
        """Start what can start: members that wait, in order, and trials that are still to be drawn."""
        while (entry := self._next()) is not None:
            if not self.launcher.fits(entry.devices):
                return
            self._start(entry)

    def _next(self) -> MemberEntry | None:
        now = time.monotonic()
        for entry in self.entries.values():
            if entry.state != "waiting" or entry.not_before > now:
                continue
            start = self.entries.get(entry.member.start) if entry.member.start is not None else None
            if start is not None and start.state in ("failed", "skipped"):
                entry.state = "skipped"
                _log.info(
                    "member %03d is left out: member %03d, which it starts from, failed",
                    entry.member.number,
                    start.member.number,
                )
                self._conclude(entry.member.trial)
            elif (start is None or start.state in ("finished", "pruned")) and self._in_turn(entry):
                return entry
        return self._drawn()

    def _in_turn(self, entry: MemberEntry) -> bool:
        """Whether no earlier seed of the trial has to be judged first."""
        if not self.plan.settings.reject:
            return True
        others = self.members_of(entry.member.trial)
        return all(one.state not in ("waiting", "running") for one in others if one.member.number < entry.member.number)

    def _drawn(self) -> MemberEntry | None:
        """Draw the next trial if there is room for one of its members."""
        if not self.plan.searched or len(self.trials) >= self.plan.settings.trials or not self.launcher.fits(1):
            return None
        if any(entry.state == "waiting" for entry in self.entries.values()):
            return None
        drawn = self.study.ask(self.plan.stages[-1].space, self.plan.searcher, self.plan.settings.seed)
        trial = PlannedTrial(drawn.number, self.plan.stages[-1], drawn.assignment)
        self.trials[trial.number] = trial
        for member in self.plan.members(trial):
            self._enter(member)
        return self.members_of(trial)[0]

    def _start(self, entry: MemberEntry) -> None:
        entry.state = "running"
        entry.prunes = not isinstance(self.plan.pruner, NoPruner) and self._first_seed(entry)
        self.launcher.start(
            Job(
                number=entry.member.number,
                folder=entry.folder.resolve(),
                values=entry.config.values,
                overrides=entry.config.overrides,
                trust=tuple(trusted()),
                devices=entry.devices,
                threads=max(1, self.threads * min(entry.devices, self.launcher.slots) // entry.devices),
                prunes=entry.prunes,
            )
        )
        self._save()
        self.show(self)

    def _first_seed(self, entry: MemberEntry) -> bool:
        """Whether a member is the first of its trial, the one by whose validations the trial is pruned."""
        return entry.member.number == min(one.member.number for one in self.members_of(entry.member.trial))

    def _comes_later(self) -> bool:
        return any(entry.state == "waiting" and entry.not_before for entry in self.entries.values())

    # What becomes of members

    def _answer(self, entry: MemberEntry) -> None:
        """Answer what a member reports of its validations: whether it should go on."""
        for report in open_reports(entry.folder):
            ends = self.study.report(entry.member.trial.number, report.index, report.value)
            answer(entry.folder, report.index, ends)

    def _ended(self, entry: MemberEntry, ending: Ending) -> None:
        if ending.code == 0 and state(entry.folder) == "finished":
            self._finish(entry)
        elif self._stop:
            entry.state = "stopped"
        elif ending.code == FolderInUseError.exit_code and entry.refusals < MOST_REFUSALS:
            # One that was killed still lets go of the folder.
            entry.state, entry.not_before = "waiting", time.monotonic() + 1.0
            entry.refusals += 1
        else:
            self._fail(entry, ending)
        self._conclude(entry.member.trial)
        self._save()

    def _finish(self, entry: MemberEntry) -> None:
        validation = entry.config.validate
        entry.score = best(scores(entry.folder, validation.metric), validation.mode)
        entry.state = "pruned" if read_conclusion(entry.folder).ended.startswith(PRUNED) else "finished"

    def _fail(self, entry: MemberEntry, ending: Ending) -> None:
        """Keep the reason; try the member again unless that is hopeless or was done often enough."""
        step, _ = last_line(entry.folder)
        attempts = entry.document.attempts
        further = step > max((attempt.step for attempt in attempts), default=0)
        reason = ending.reason or _fate(ending.code)
        entry.failures += not (further or ending.lost)
        attempt = Attempt(ended=time.time(), code=ending.code, reason=reason, step=step)
        entry.document = _with_attempt(entry.document, attempt)
        write_document(entry.folder, entry.document)
        hopeless = ending.code in PERMANENT or entry.failures > self.plan.settings.retries
        entry.state = "failed" if hopeless else "waiting"
        _log.warning("member %03d failed: %s%s", entry.member.number, reason, "" if hopeless else "; it is tried again")

    def _conclude(self, trial: PlannedTrial) -> None:
        """Tell the study how a trial ended, once all of its members have; first leave out seeds that are not worth it."""
        members = self.members_of(trial)
        self._reject(members)
        if any(entry.state in ("waiting", "running", "stopped") for entry in members):
            return
        if any(trial.stage.name == stage.start for stage in self.plan.stages):
            return  # it is judged by those that start from it
        done = [entry.score for entry in members if entry.state in ("finished", "pruned") and entry.score is not None]
        if any(entry.state in ("failed", "skipped") for entry in members) or not done:
            self.study.tell(trial.number, "failed")
            return
        first = members[0]
        for index, value in enumerate(scores(first.folder, first.config.validate.metric), 1):
            if value == value:
                self.study.report(trial.number, index, value)
        cut = any(entry.state in ("pruned", "rejected") for entry in members)
        self.study.tell(trial.number, "pruned" if cut else "finished", statistics.fmean(done))

    def _reject(self, members: list[MemberEntry]) -> None:
        """Leave out the other seeds of a trial that was pruned, or whose mean so far is worse than the median of others."""
        done = [entry.score for entry in members if entry.state in ("finished", "pruned") and entry.score is not None]
        left = [entry for entry in members if entry.state == "waiting"]
        if not done or not left:
            return
        worse = any(entry.state == "pruned" for entry in members)
        if self.plan.settings.reject and not worse:
            others = [
                self._mean_after(trial, len(done))
                for trial in self.trials.values()
                if trial is not members[0].member.trial
            ]
            known = [mean for mean in others if mean is not None]
            if len(known) >= 3:
                gap = statistics.fmean(done) - statistics.median(known)
                worse = gap < 0 if members[0].config.validate.mode == "max" else gap > 0
        for entry in left if worse else []:
            entry.state = "rejected"

    def _mean_after(self, trial: PlannedTrial, seeds: int) -> float | None:
        """Return the mean score of the first seeds of a trial; None if it has not come that far."""
        values = [entry.score for entry in self.members_of(trial)[:seeds] if entry.score is not None]
        return statistics.fmean(values) if len(values) == seeds else None

    def _save(self) -> None:
        """Say what the sweep does, for those who look from outside."""
        members: list[dict[str, Any]] = [
            {"number": entry.member.number, "state": entry.state} for entry in self.entries.values()
        ]
        with storage_errors(self.folder):
            write_json(self.folder / STATE, {"members": members}, indent=None)


def _with_attempt(document: MemberDocument, attempt: Attempt) -> MemberDocument:
    values = document.plain()
    return MemberDocument(**{**values, "attempts": [*document.attempts, attempt]})


def _fate(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL; is the machine out of memory?)"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}; see its log"
