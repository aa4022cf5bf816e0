"""`etude compare SWEEP`: a sweep's trials with what varied, their scores over seeds, tests against the best, and importances."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from etude.commands.compare import (
    Group,
    UnpairedError,
    comparable_scores,
    group_score,
    known_format,
    paired_runs,
    tested_metrics,
)
from etude.commands.compare_tables import as_csv, render, show
from etude.commands.compared_run import ComparedRun
from etude.commands.experiment_file import save_experiment
from etude.commands.sweep_tables import sweep_notes, sweep_records, sweep_tables
from etude.errors import ConfigurationError
from etude.metrics.resampling import holm
from etude.report.significance import ScoredRows, pooled_differences
from etude.runs.folder import EVALUATIONS
from etude.runs.saved_run import SavedRun
from etude.sweeps.saved_sweep import SavedSweep
from etude.sweeps.sweep_results import Spread, SweepResults, TrialResult

_log = logging.getLogger(__name__)


def compare_sweep(
    sweep: SavedSweep,
    *,
    split: Any = None,
    metric: Any = None,
    format: Any = "markdown",  # noqa: A002 (the name that people type)
    save: Any = None,
) -> dict[str, Any] | str:
    """Compare the trials of a sweep, which may still run; what has not come to its end is counted and left out.

    Args:
        sweep: The sweep.
        split: The evaluation whose scores are compared; None: `test` where members have it, else `val`.
        metric: Name or names of the scores whose differences are tested; None: the one that validations are judged by.
        format: `markdown`, `latex`, `csv` or `json`.
        save: A file for the best configuration, in a folder `experiment`; None: none is written.

    Returns:
        The rendered tables, or their content as plain values.

    Raises:
        ConfigurationError: If nothing has come to an end, or an argument is invalid.
        StorageError: If the file cannot be written.
    """
    output_format = known_format(format)
    results = SweepResults.read(sweep)
    shown = [trial for trial in results.trials if trial.ended or trial.state == "failed"]
    if not any(trial.ended for trial in shown):
        raise ConfigurationError(f"no member of {sweep.path} is finished; first: etude sweep resume {sweep.path}")
    saved = None if save is None else save_experiment(results, str(save))
    split = _split(shown, split)
    comparison = {
        "sweep": str(sweep.path),
        "metric": results.metric,
        "mode": sweep.document.mode,
        "split": split,
        "best": None if results.best is None else results.best.number,
        "parameters": results.varied,
        **_compare_trials(results, shown, split, metric),
        "importances": dict(results.importances),
        "left_out": [str(one.path) for one in results.members if one.state in ("waiting", "running", "stopped")],
        "saved": None if saved is None else str(saved),
    }
    if saved is not None:
        _log.info("wrote %s; %s", saved, saved.read_text(encoding="utf-8").splitlines()[1].removeprefix("# "))
    tables, notes = sweep_tables(comparison), sweep_notes(comparison)
    show(tables, notes, fold=False)
    if output_format == "csv":
        return as_csv(sweep_records(comparison))
    return comparison if output_format == "json" else render(tables, notes, output_format)


def _split(trials: Sequence[TrialResult], asked: Any) -> str:
    """Return the evaluation to compare: the one that is asked for, or `test` where any member has it."""
    members = [member for trial in trials for member in trial.ended]
    if asked is not None:
        if not any((member.path / EVALUATIONS / f"{asked}.json").exists() for member in members):
            first = shlex.quote(str(members[0].path))
            raise ConfigurationError(
                f"no member has an evaluation of {asked}; make it: etude evaluate {first} split={asked}"
            )
        return str(asked)
    return "test" if any((member.path / EVALUATIONS / "test.json").exists() for member in members) else "val"


def _compare_trials(results: SweepResults, trials: Sequence[TrialResult], split: str, metric: Any) -> dict[str, Any]:
    """Return the trials as plain values, with the signatures of their scores and notes."""
    groups = {trial.number: _evaluated(trial, split) for trial in trials}
    evaluated = [group for group in groups.values() if group.runs]
    names, notes = comparable_scores(evaluated, split) if evaluated else ([], [])
    without = [f"{number}" for number, group in groups.items() if not group.runs and _ended(trials, number)]
    if without:
        notes.append(f"without an evaluation of {split}: trial {', '.join(without)}")
    tested = tested_metrics(metric, split, evaluated) if names else []
    finished = [groups[trial.number] for trial in trials if trial.state == "finished" and groups[trial.number].runs]
    best = None if results.best is None else groups[results.best.number]
    tests = against_best(best, finished, tested) if best is not None and best.runs and tested else {}
    notes += [
        f"{group.name} is not tested against {best.name}: {tests[group.name]['why_not']}"
        for group in finished
        if best is not None and "why_not" in tests.get(group.name, {})
    ]
    return {
        "trials": [
            _plain(trial)
            | {
                "scores": {
                    name: group_score(groups[trial.number], name) for name in names if groups[trial.number].runs
                },
                "against_best": tests.get(groups[trial.number].name, {}),
            }
            for trial in trials
        ],
        "signatures": {name: said for name in names if (said := evaluated[0].runs[0].signatures.get(name)) is not None},
        "notes": notes,
    }


def _ended(trials: Sequence[TrialResult], number: int) -> bool:
    return any(trial.ended for trial in trials if trial.number == number)


def _evaluated(trial: TrialResult, split: str) -> Group:
    """Return the members of a trial that have an evaluation, as a group of runs."""
    folders = [one.path for one in trial.ended if (one.path / EVALUATIONS / f"{split}.json").exists()]
    runs = [ComparedRun.read(SavedRun.open(folder), split) for folder in folders]
    return Group(f"trial {trial.number}", sorted(runs, key=lambda run: run.seed))


def _plain(trial: TrialResult) -> dict[str, Any]:
    """Return a trial as plain values, without what its evaluations say."""
    return {
        "trial": trial.number,
        "stage": trial.stage,
        "state": trial.state,
        "reason": trial.reason,
        "members": [str(member.path) for member in trial.members],
        "seeds": trial.seeds,
        "configuration": dict(trial.assignment),
        "validation": None if trial.score is None else _spread(trial.score),
        "seconds": trial.seconds,
    }


def _spread(score: Spread) -> dict[str, Any]:
    return {"mean": score.mean, "sd": score.sd, "values": list(score.values)}


def against_best(best: Group, groups: Sequence[Group], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Test the difference of each group to the best one, pooled over seeds, and correct all p-values together.

    Args:
        best: The best trial's runs.
        groups: The other trials' runs; the best one among them is passed over.
        metrics: Names of the scores whose differences are tested.

    Returns:
        By the group's name: `test` (the method), and by score `difference`, `p`, and `holm`, the corrected p-value; or
        `why_not`, the reason for no test.
    """
    others = [group for group in groups if group.name != best.name]
    rows = {run.folder: run.scored_rows(metrics) for group in (best, *others) for run in group.runs}
    tests = {group.name: _against(best, group, rows) for group in others}
    places = [(group, name) for group, test in tests.items() for name in test.get("p", {})]
    for (group, name), corrected in zip(places, holm([tests[one]["p"][name] for one, name in places]), strict=True):
        tests[group].setdefault("holm", {})[name] = corrected
    return tests


def _against(best: Group, other: Group, rows: Mapping[Any, ScoredRows]) -> dict[str, Any]:
    try:
        pairs = paired_runs(best, other)
    except UnpairedError as error:
        return {"why_not": str(error)}
    return pooled_differences([(rows[first.folder], rows[second.folder]) for first, second in pairs])
