"""What a sweep has come to: its trials with their scores over seeds, the best first, and what matters among its parameters."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from etude.errors import ConfigurationError, DataError
from etude.runs.documents import Conclusion
from etude.runs.reading import read_conclusion
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from etude.sweeps.space import Assignment
from etude.sweeps.study import StudyReader

TrialState = Literal["finished", "pruned", "rejected", "failed", "unfinished"]

SEED = "seed"
"""The parameter in which the members of one trial may differ."""


@dataclass(frozen=True)
class Spread:
    """A score of several runs.

    Attributes:
        values: The score of each, at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The standard deviation; None of one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class TrialResult:
    """What one assignment has come to. Members that differ in nothing but the seed are one trial.

    Attributes:
        number: Number of its first trial in the sweep.
        stage: The stage that it belongs to; empty where the sweep has none.
        assignment: Values of its parameters, without the seed.
        members: Its members, by number.
        metric: The score that trials are judged by; None if they are judged by several.
    """

    number: int
    stage: str
    assignment: Assignment
    members: list[SavedMember]
    metric: str | None

    @property
    def ended(self) -> list[SavedMember]:
        """The members that came to their end, pruned or not."""
        return [member for member in self.members if member.state in ("finished", "pruned")]

    @property
    def state(self) -> TrialState:
        """How it went: that of its members that fared worst."""
        states = {member.state for member in self.members}
        if states & {"waiting", "running", "stopped"}:
            return "unfinished"
        if states & {"failed", "skipped"}:
            return "failed"
        if "pruned" in states:
            return "pruned"
        return "rejected" if "rejected" in states else "finished"

    @cached_property
    def score(self) -> Spread | None:
        """The best validation of each member that came to its end; None if there is none, or it is judged by another score."""
        values = tuple(
            member.progress.score
            for member in self.ended
            if member.progress.score is not None and self.metric in (None, member.metric)
        )
        return Spread(values) if values else None

    @property
    def seconds(self) -> float | None:
        """Mean seconds of training of the members that came to their end, or else of those that were begun."""
        begun = [member for member in self.members if member.progress.seconds]
        return statistics.fmean(one.progress.seconds for one in self.ended or begun) if self.ended or begun else None

    @property
    def seeds(self) -> list[int]:
        """Seeds of the members that came to their end."""
        return [int(member.document.config.get(SEED, 0)) for member in self.ended]

    @cached_property
    def conclusions(self) -> list[Conclusion]:
        """What each member that came to its end ended with.

        Raises:
            BrokenFileError: If one is damaged.
        """
        return [read_conclusion(member.path) for member in self.ended]

    @property
    def scores(self) -> dict[str, Spread]:
        """Scores at the end, by name, such as `test/bleu`, of those that all members have."""
        found = [conclusion.scores for conclusion in self.conclusions]
        names = [name for name in (found[0] if found else {}) if all(name in scores for scores in found)]
        return {name: Spread(tuple(scores[name] for scores in found)) for name in names}

    @property
    def reason(self) -> str:
        """Why it failed or was pruned; empty if neither."""
        failure = next((member.reason for member in self.members if member.reason), "")
        if failure or self.state != "pruned":
            return failure
        pairs = zip(self.ended, self.conclusions, strict=True)
        return next(conclusion.ended for member, conclusion in pairs if member.state == "pruned")


@dataclass(frozen=True)
class SweepResults:
    """The trials of a sweep.

    Attributes:
        sweep: The sweep.
        trials: The trials; the best first, those without a score last, and as they were tried where nothing says which is best.
        importances: How much each parameter matters, as shares of 1; empty where that is not known.
    """

    sweep: SavedSweep
    trials: list[TrialResult]
    importances: Mapping[str, float]

    @classmethod
    def read(cls, sweep: SavedSweep) -> SweepResults:
        """Read what a sweep has come to so far; one that runs is not disturbed.

        Raises:
            BrokenFileError: If one of its files is damaged.
        """
        trials = _trials(sweep)
        return cls(sweep, sorted(trials, key=_rank(trials, sweep.document.mode)), _importances(sweep))

    @property
    def metric(self) -> str | None:
        """The score that trials are judged by; None if they are judged by several."""
        return self.sweep.document.metric

    @property
    def members(self) -> list[SavedMember]:
        """All members, by number."""
        members = [member for trial in self.trials for member in trial.members]
        return sorted(members, key=lambda member: member.document.number)

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best mean, of those with the most seeds; None if none has come to its end, or by no one score."""
        return self.trials[0] if self.metric is not None and self.trials and self.trials[0].score is not None else None

    def require_best(self) -> TrialResult:
        """Return the best trial.

        Raises:
            ConfigurationError: If none has come to its end, or they are not judged by one score.
        """
        if self.best is not None:
            return self.best
        path = self.sweep.path
        if self.metric is None:
            raise ConfigurationError(f"the members of {path} are judged by different scores; none of them is the best")
        raise ConfigurationError(f"no member of {path} is finished; first: etude sweep resume {path}")

    @property
    def varied(self) -> list[str]:
        """Names of the parameters whose values differ between trials; one that not all trials have differs."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.assignment)
        return [name for name in names if len({_known(trial.assignment, name) for trial in self.trials}) > 1]

    @property
    def unfinished(self) -> int:
        """Number of members that have not come to an end yet."""
        return sum(member.state in ("waiting", "running", "stopped") for member in self.members)

    def domain(self, name: str) -> Mapping[str, Any]:
        """Return the space of a parameter: `low`, `high`, `log` and `step`, or `values`; empty if it is not known."""
        stages = self.sweep.document.identity.get("stages", {}).values()
        return next((stage["space"][name] for stage in stages if name in stage.get("space", {})), {})


def _known(assignment: Assignment, name: str) -> tuple[type, Any]:
    """Return a value that is equal to equal values of one type only: 1 is not true."""
    value = assignment.get(name)
    return type(value), value


def _trials(sweep: SavedSweep) -> list[TrialResult]:
    grouped: dict[tuple[Any, ...], list[SavedMember]] = {}
    for member in sweep.members:
        document = member.document
        rest = {name: value for name, value in document.assignment.items() if name != SEED}
        # A seed that is searched makes each of its values a trial; here these are one.
        same = (document.stage, *rest, *map(repr, rest.values())) if SEED in document.assignment else document.trial
        grouped.setdefault((same,), []).append(member)
    return [
        TrialResult(
            number=members[0].document.trial,
            stage=members[0].document.stage,
            assignment={name: value for name, value in members[0].document.assignment.items() if name != SEED},
            members=members,
            metric=sweep.document.metric,
        )
        for members in grouped.values()
    ]


def _rank(trials: Sequence[TrialResult], mode: str) -> Any:
    """Return the sort key by which the best trial comes first; a mean of fewer seeds than others have says less."""
    most = max((len(trial.score.values) for trial in trials if trial.score), default=0)
    sign = -1.0 if mode == "max" else 1.0

    def key(trial: TrialResult) -> tuple[bool, bool, float, int]:
        if trial.score is None or trial.metric is None:
            return trial.metric is not None, True, 0.0, trial.number
        return False, len(trial.score.values) < most, sign * trial.score.mean, trial.number

    return key


def _importances(sweep: SavedSweep) -> dict[str, float]:
    try:
        return StudyReader(sweep.path).importances()
    except DataError:
        return {}
