"""The trials of a sweep in Optuna's storage, a journal in the sweep's folder that optuna-dashboard opens.

A trial is in the journal, with all its values, before any of its members starts: it is written in one line. The process that
holds the sweep's lock alone writes it; others read it by `StudyReader`, which leaves it as it is.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from etude.atomic import storage_errors
from etude.errors import DataError, StorageError
from etude.sweeps.searchers import Grid, Searcher, trial_seed
from etude.sweeps.space import Assignment, Space

JOURNAL = "study.journal"
"""Name of the journal in the sweep's folder."""

NUMBER = "number"
"""Attribute of a trial: its number in the sweep, which a trial that is tried again keeps."""

State = Literal["running", "finished", "pruned", "failed"]

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


@dataclass(frozen=True)
class Trial:
    """One assignment that is tried.

    Attributes:
        number: Its number in the sweep, from 0.
        assignment: A value for each parameter.
        state: How it went.
        value: The mean score of its members; None while it has none.
    """

    number: int
    assignment: Assignment
    state: State
    value: float | None


class StudyReader:
    """The trials of a sweep as its journal has them now; the journal stays as it is, also while a sweep writes it.

    Args:
        folder: The sweep's folder.

    Raises:
        DataError: If there is no journal yet, or a line of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._study = optuna.load_study(study_name=None, storage=JournalStorage(_WholeLines(self.path)))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{self.path} holds no study yet, or is damaged; it begins with the first member"
            ) from error

    @property
    def trials(self) -> list[Trial]:
        """The trials by number; of one that was tried again, the last time."""
        return [_trial(number, one) for number, one in sorted(self._latest().items())]

    def _latest(self) -> dict[int, FrozenTrial]:
        return {one.user_attrs[NUMBER]: one for one in self._study.get_trials(deepcopy=False)}

    def importances(self) -> dict[str, float]:
        """Return how much each parameter decides whether a trial is among the best, as shares of 1 (PED-ANOVA, Watanabe 2023).

        Nothing for fewer than four finished trials, or if all have one score. The most important comes first.
        """
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < 4 or len({one.value for one in done}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with warnings.catch_warnings():  # about few trials, which the table of trials shows
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


class _WholeLines(BaseJournalBackend):
    """The lines of a journal that are whole; a last one that is being written is left out."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the lines from a number on."""
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse to write."""
        raise StorageError(f"{self._path} is only read here")


class Study(StudyReader):
    """The trials of a sweep, for the process that runs it.

    Args:
        folder: The sweep's folder.
        name: Name of the study.
        mode: Whether the best score is the smallest or the largest.
        pruner: What ends trials.
    """

    def __init__(self, folder: Path, name: str, mode: str, pruner: BasePruner) -> None:
        self.path = folder / JOURNAL
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._direction: Literal["minimize", "maximize"] = "maximize" if mode == "max" else "minimize"
        _mend(self.path)
        with storage_errors(self.path):
            storage = JournalStorage(JournalFileBackend(str(self.path)))
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction=self._direction, pruner=pruner, load_if_exists=True
            )

    def ask(self, space: Space, searcher: Searcher, seed: int) -> Trial:
        """Draw the next trial and store it.

        Args:
            space: The space.
            searcher: What draws it; not a grid.
            seed: Seed of the search.
        """
        if isinstance(searcher, Grid):
            raise TypeError("the trials of a grid are known: add them")
        number = len(self._latest())
        sampler = searcher.sampler(trial_seed(seed, number))
        drawn = self._in_memory(sampler).ask()
        assignment = space.suggest(drawn)
        self._store(number, drawn.params, drawn.distributions)
        return Trial(number, assignment, "running", None)

    def _in_memory(self, sampler: BaseSampler) -> optuna.Study:
        """Return a copy of the study, in which a trial can be drawn value by value."""
        memory = optuna.create_study(direction=self._direction, sampler=sampler)
        memory.add_trials(self._study.get_trials(deepcopy=False))
        return memory

    def add(self, number: int, space: Space, assignment: Assignment) -> Trial:
        """Store a trial with a known assignment."""
        fixed = FixedTrial(dict(assignment))
        space.suggest(fixed)
        self._store(number, fixed.params, fixed.distributions)
        return Trial(number, assignment, "running", None)

    def again(self, number: int) -> None:
        """Store a trial that failed once more, to be tried again."""
        before = self._latest()[number]
        if before.state is TrialState.FAIL:
            self._store(number, before.params, before.distributions)

    def _store(
        self, number: int, params: Assignment, distributions: dict[str, optuna.distributions.BaseDistribution]
    ) -> None:
        with storage_errors(self.path):
            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=dict(params),
                    distributions=distributions,
                    user_attrs={NUMBER: number},
                )
            )

    def report(self, number: int, index: int, value: float) -> bool:
        """Store the score of a trial's validation, and return whether the trial should end.

        Args:
            number: The trial.
            index: Number of the validation, from 1; one that is known already is not stored again.
            value: Its score.
        """
        frozen = self._latest()[number]
        if frozen.state.is_finished():
            return False
        trial = optuna.Trial(self._study, frozen._trial_id)
        if index not in frozen.intermediate_values:
            with storage_errors(self.path):
                trial.report(value, index)
        return bool(trial.should_prune())

    def tell(self, number: int, state: State, value: float | None = None) -> None:
        """Store how a trial ended; one that has ended already stays as it is."""
        frozen = self._latest()[number]
        if frozen.state.is_finished():
            return
        ended = {known: one for one, known in _STATES.items() if one.is_finished()}[state]
        with storage_errors(self.path):
            if ended is TrialState.PRUNED and value is not None and not frozen.intermediate_values:
                optuna.Trial(self._study, frozen._trial_id).report(value, 1)
            self._study.tell(
                frozen.number, value if ended is TrialState.COMPLETE else None, state=ended, skip_if_finished=True
            )


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    assignment: Assignment = {}
    for name, value in frozen.params.items():
        distribution = frozen.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            # The stored value is equal to the choice, and may be of another type: 1 and 1.0, or true.
            value = distribution.choices[int(distribution.to_internal_repr(value))]
        assignment[name] = value
    return Trial(number, assignment, _STATES[frozen.state], frozen.value)


def _mend(journal: Path) -> None:
    """Cut off a last line that a killed process did not finish, and take away the lock that it left.

    Raises:
        DataError: If a line in the middle is damaged.
    """
    if not journal.exists():
        return
    with storage_errors(journal):
        journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)
    for place, line in enumerate(content[:whole].splitlines(), 1):
        try:
            json.loads(line)["op_code"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{journal}:{place} is damaged; restore it from a copy, or give the sweep another name"
            ) from error
