"""The report of a sweep: a self-contained HTML file, as that of a run; see `etude.report.page`.

It is light: neither torch nor a run's tokenizer is loaded for it, so that the process of a sweep can write it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import etude
from etude.atomic import write_text
from etude.errors import DataError
from etude.report.curves import charts_of, overlaid
from etude.report.interactive import Interactive, interactive, page_policy
from etude.report.sweep_charts import (
    ABSENT,
    SHADES,
    Bar,
    Parallel,
    Plot,
    described,
    history,
    importance_bars,
    member_curves,
    parallel_coordinates,
)
from etude.report.templates import environment
from etude.report.writing import duration, mean_and_deviation, shortened_change
from etude.runs.record import RECORD, Event, read
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from etude.sweeps.space import setting
from etude.sweeps.sweep_results import Spread, SweepResults, TrialResult

SWEEP_REPORT = "report.html"
"""Name of the report in the sweep's folder."""


def write_sweep_report(sweep: SavedSweep) -> Path:
    """Write the report of a sweep, finished or not, into its folder.

    Returns:
        The page's path.

    Raises:
        BrokenFileError: If what the sweep or one of its members says of itself is damaged.
        StorageError: If the page cannot be written.
    """
    contents = SweepContents(SweepResults.read(sweep))
    page = environment().get_template("sweep.html.jinja").render(contents=contents, version=etude.__version__)
    write_text(sweep.path / SWEEP_REPORT, page)
    return sweep.path / SWEEP_REPORT


@dataclass(frozen=True)
class ShownTrial:
    """A row of the table of trials.

    Attributes:
        number: The trial's number.
        stage: Its stage.
        values: Its values of the parameters that vary.
        seeds: Seeds of the members that came to their end.
        validation: Its score in validations.
        scores: Scores at the end, in the order of the columns.
        time: Time of training of one member.
        order: Values by which the columns of validation, scores and time are sorted, in this order; None where there is none.
        state: How it went.
        is_best: Whether it is the best.
    """

    number: int
    stage: str
    values: list[str]
    seeds: str
    validation: str
    scores: list[str]
    time: str
    order: list[float | None]
    state: str
    is_best: bool


class SweepContents:
    """What the page of a sweep shows.

    Args:
        results: What the sweep has come to.
    """

    shades = SHADES

    def __init__(self, results: SweepResults) -> None:
        self.results = results
        self.path = results.sweep.path.resolve()
        self.problems: list[str] = []
        self.recorded = self._read()

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return f"{self.path.parent.parent.name}/{self.path.parent.name}"

    @cached_property
    def states(self) -> list[tuple[str, int]]:
        """How many members are in each state."""
        states = [member.state for member in self.results.members]
        return [(state, states.count(state)) for state in dict.fromkeys(states)]

    @property
    def status(self) -> str:
        """`finished`, `running` or `unfinished`."""
        if not self.results.unfinished and self.results.members:
            return "finished"
        return "running" if self.results.sweep.is_running else "unfinished"

    @property
    def metric(self) -> str:
        """The score that trials are judged by, or what stands for several."""
        return self.results.metric or "validation"

    @cached_property
    def has_stages(self) -> bool:
        """Whether trials are of several stages."""
        return len({trial.stage for trial in self.results.trials}) > 1

    @cached_property
    def score_names(self) -> list[str]:
        """Names of the scores at the end of the trials, without the losses that validations have shown."""
        names = dict.fromkeys(name for trial in self.results.trials for name in trial.scores)
        return [name for name in names if name != self.results.metric]

    @cached_property
    def trials(self) -> list[ShownTrial]:
        """The rows of the table of trials, the best first."""
        return [self._shown(trial) for trial in self.results.trials]

    def _shown(self, trial: TrialResult) -> ShownTrial:
        values = [
            setting(trial.assignment[name]) if name in trial.assignment else ABSENT for name in self.results.varied
        ]
        scores = trial.scores
        return ShownTrial(
            number=trial.number,
            stage=trial.stage,
            values=values,
            seeds=", ".join(map(str, trial.seeds)) or ABSENT,
            validation=_spread(trial.score),
            scores=[_spread(scores.get(name)) for name in self.score_names],
            time=duration(trial.seconds),
            order=[*map(_mean, (trial.score, *map(scores.get, self.score_names))), trial.seconds],
            state=trial.state,
            is_best=trial is self.results.best,
        )

    @cached_property
    def best_scores(self) -> list[tuple[str, str]]:
        """The scores of the best trial, that of its validations first."""
        best = self.results.best
        if best is None:
            return []
        others = [(name, _spread(one)) for name, one in best.scores.items() if name != self.metric]
        return [(self.metric, _spread(best.score)), *others]

    @cached_property
    def best_words(self) -> list[str]:
        """The values of the best trial."""
        best = self.results.best
        return [] if best is None else [f"{name}={setting(value)}" for name, value in best.assignment.items()]

    @property
    def not_finished(self) -> list[SavedMember]:
        """Members that did not come to their end as planned, by number."""
        return [member for member in self.results.members if member.state != "finished"]

    def reason(self, member: SavedMember) -> str:
        """Return why a member failed or was pruned; empty if that is not known."""
        for trial in self.results.trials:
            for one, conclusion in zip(trial.ended, trial.conclusions, strict=True):
                if one.path == member.path:
                    return conclusion.ended
        return member.reason

    @cached_property
    def parallel(self) -> Parallel | None:
        """Parallel coordinates."""
        return parallel_coordinates(self.results)

    @cached_property
    def bars(self) -> list[Bar]:
        """Importances."""
        return importance_bars(self.results.importances)

    @cached_property
    def history(self) -> Plot | None:
        """The score over trials."""
        return history(self.results)

    def _read(self) -> dict[int, list[Event]]:
        """Return the events of each member, by its number; what cannot be read is a problem."""
        recorded: dict[int, list[Event]] = {}
        for member in self.results.members:
            path = member.path / RECORD
            try:
                recorded[member.document.number] = read(path) if path.exists() else []
            except DataError as error:
                self.problems.append(str(error))
        return recorded

    @cached_property
    def curves(self) -> Plot | None:
        """The validations of each member."""
        shown: dict[int, tuple[list[float], list[float]]] = {}
        for member in self.results.members:
            metric, number = self.results.metric or member.metric, member.document.number
            validations = [event for event in self.recorded.get(number, ()) if metric in event.values]
            shown[number] = [float(one.step) for one in validations], [float(one.values[metric]) for one in validations]
        return member_curves(self.results, shown)

    @cached_property
    def packed(self) -> Interactive | None:
        """All curves of all members; None if there are none yet."""
        places = {number: place for place, number in enumerate(self.recorded)}
        metrics = {member.document.number: member.metric for member in self.results.members}
        charts = overlaid(
            {places[number]: charts_of(events, metrics[number]) for number, events in self.recorded.items()}
        )
        return interactive(self.member_names, charts) if charts else None

    @property
    def policy(self) -> str:
        """The page's content security policy."""
        return page_policy(self.packed)

    @cached_property
    def member_names(self) -> list[str]:
        """Names of the members whose records can be read."""
        return [f"{number:03d}" for number in self.recorded]

    @cached_property
    def member_labels(self) -> list[str]:
        """What each of them is, in short."""
        trials = {member.document.number: trial for trial in self.results.trials for member in trial.members}
        return [described(trials[number], self.results.varied) for number in self.recorded]

    @property
    def command(self) -> str:
        """The command that begins the sweep."""
        document = self.results.sweep.document
        folder = [] if document.extra is None else ["--config-dir", document.extra]
        return shlex.join(["etude", "sweep", *folder, *document.command])

    @property
    def resume(self) -> str:
        """The command that goes on with the sweep."""
        return shlex.join(["etude", "sweep", "resume", str(self.results.sweep.path)])

    @property
    def save(self) -> str:
        """The command that writes the best configuration."""
        file = f"save=conf/experiment/{self.experiment}-best.yaml"
        return shlex.join(["etude", "compare", str(self.results.sweep.path), file])

    @cached_property
    def code(self) -> list[tuple[str, str]]:
        """The code that the sweep was begun with."""
        state = self.results.sweep.document.code
        rows = [
            ("commit", state.commit or "not known"),
            ("changed since that commit", "yes" if state.changes else "no"),
        ]
        rows += [(f"sources of {name}", digest or "not known") for name, digest in state.sources.items()]
        return rows + [(name, version or "not installed") for name, version in state.packages.items()]

    @cached_property
    def drift(self) -> list[tuple[str, str]]:
        """What has changed since: names and changes."""
        changed = self.results.sweep.document.code.drift()
        return [(name, shortened_change(change)) for name, change in changed.items()]


def _mean(score: Spread | None) -> float | None:
    return None if score is None else score.mean


def _spread(score: Spread | None) -> str:
    return ABSENT if score is None else mean_and_deviation(score.mean, score.sd)
