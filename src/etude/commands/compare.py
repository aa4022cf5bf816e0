"""`etude compare`: differences between runs in configuration, scores and cost.

Runs that differ only in their seed form a group, which is a row of each table. All groups are compared with the first.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etude.commands.compare_tables import (
    FORMATS,
    as_csv,
    comparison_records,
    comparison_tables,
    render,
    show,
    table_notes,
)
from etude.commands.compared_run import ComparedRun, common_split
from etude.config.values import NONE
from etude.errors import ConfigurationError
from etude.metrics.seeds import seed_test
from etude.report.significance import differences
from etude.runs.saved_run import SavedRun

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        name: Path of the first run, relative to the common parent of all runs.
        runs: The runs, ordered by seed.
    """

    name: str
    runs: list[ComparedRun]


def compare(
    runs: Sequence[SavedRun],
    *,
    split: Any = None,
    metric: Any = None,
    format: Any = "markdown",  # noqa: A002 (the name that people type)
    save: Any = None,
) -> dict[str, Any] | str:
    """Compare finished runs; unfinished ones are reported and left out.

    Args:
        runs: The runs.
        split: The evaluation to compare; None: `test`, else `val`.
        metric: Name or names of the scores whose differences are tested; None: the runs' validation metric.
        format: `markdown`, `latex`, `csv` or `json`.
        save: Of a sweep alone; see `etude.commands.compare_sweep`.

    Returns:
        The rendered tables, or their content as plain values.

    Raises:
        ConfigurationError: If there is nothing to compare, or an argument is invalid.
    """
    output_format = known_format(format)
    if save is not None:
        raise ConfigurationError(f"save={save} needs one sweep, whose best configuration it is (command line)")
    finished = [run for run in runs if run.state == "finished"]
    left_out = [str(run.path) for run in runs if run not in finished]
    for folder in left_out:
        _log.warning("%s is not finished, and left out; etude resume %s", folder, folder)
    if len(finished) < 2:
        raise ConfigurationError(
            f"finished runs that are given: {len(finished)}; name two or more, or a folder of them"
        )
    split = common_split(finished, split)
    groups = group_by_configuration([ComparedRun.read(run, split) for run in finished])
    comparison = {
        "split": split,
        **compare_groups(groups, split, tested_metrics(metric, split, groups)),
        "left_out": left_out,
    }
    tables, notes = comparison_tables(comparison), table_notes(comparison)
    show(tables, notes)
    if output_format == "csv":
        return as_csv(comparison_records(comparison))
    return comparison if output_format == "json" else render(tables, notes, output_format)


def known_format(name: Any) -> str:
    """Return the name of a format.

    Raises:
        ConfigurationError: If there is none of this name.
    """
    if str(name) not in FORMATS:
        raise ConfigurationError(
            f"etude compare does not know format={name}; it takes split=, metric=, save= and format={'|'.join(FORMATS)} "
            "(command line)"
        )
    return str(name)


def tested_metrics(metric: Any, split: str, groups: Sequence[Group]) -> list[str]:
    """Return the names of the scores to test: by default the first run's main metric, or its first other than the loss.

    Raises:
        ConfigurationError: If the first run has no score of a name that is asked for.
    """
    first = groups[0].runs[0]
    names = [name.partition("/")[2] for name in first.scores]
    if metric is not None:
        asked = metric if isinstance(metric, Sequence) and not isinstance(metric, str) else [metric]
        tested = [str(name).removeprefix(f"{split}/") for name in asked]
        for name in tested:
            if name not in names:
                raise ConfigurationError(
                    f"metric={name} is not a score of {first.folder}; write metric={' or metric='.join(names)} (command line)"
                )
        return tested
    return [first.main] if first.main != "loss" else [name for name in names if name != "loss"][:1]


def group_by_configuration(runs: Sequence[ComparedRun]) -> list[Group]:
    """Return the groups, in the order of their first runs."""
    members_by_configuration: dict[tuple[tuple[str, str], ...], list[ComparedRun]] = {}
    for run in runs:
        members_by_configuration.setdefault(tuple(sorted(run.configuration.items())), []).append(run)
    root = os.path.commonpath([run.folder.parent.absolute() for run in runs])
    return [
        Group(members[0].folder.absolute().relative_to(root).as_posix(), sorted(members, key=lambda run: run.seed))
        for members in members_by_configuration.values()
    ]


def compare_groups(groups: Sequence[Group], split: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Return the comparison of groups as plain values.

    Args:
        groups: The groups, at least one.
        split: The split that all runs were evaluated on.
        metrics: Names of the scores whose differences are tested.
    """
    keys = differing_keys(groups)
    names, notes = comparable_scores(groups, split)
    tested = [name for name in names if name.partition("/")[2] in metrics]
    first, *others = groups
    against: list[dict[str, Any]] = [{}]
    against += [significance(first, other, metrics) if names else {} for other in others]
    notes += [
        f"{other.name} is not tested against {first.name}: {test['why_not']}"
        for other, test in zip(others, against[1:], strict=True)
        if "why_not" in test
    ]
    signatures = {name: first.runs[0].signatures[name] for name in names if name in first.runs[0].signatures}
    return {
        "groups": [
            {
                "name": group.name,
                "runs": [str(run.folder) for run in group.runs],
                "seeds": [run.seed for run in group.runs],
                "configuration": {key: group.runs[0].configuration.get(key, NONE) for key in keys},
                "scores": {name: group_score(group, name) for name in names},
                "against_first": test,
                "over_seeds": {} if group is first else {name: over_seeds(first, group, name) for name in tested},
                "cost": _mean_cost(group),
            }
            for group, test in zip(groups, against, strict=True)
        ],
        "signatures": signatures,
        "notes": notes,
    }


def differing_keys(groups: Sequence[Group]) -> list[str]:
    """Return the configuration keys whose values differ between groups, sorted."""
    configurations = [group.runs[0].configuration for group in groups]
    keys = sorted({key for configuration in configurations for key in configuration})
    return [key for key in keys if len({configuration.get(key, NONE) for configuration in configurations}) > 1]


def comparable_scores(groups: Sequence[Group], split: str) -> tuple[list[str], list[str]]:
    """Return the names of the scores that all runs have and computed alike, and a note on each of the others."""
    runs = [run for group in groups for run in group.runs]
    first = runs[0]
    others = [str(run.folder) for run in runs if not run.has_data_of(first)]
    if others:
        return [], [f"scores are not compared: the {split} data of {', '.join(others)} are not those of {first.folder}"]
    names = [name for name in first.scores if all(name in run.scores for run in runs)]
    signatures = {name: sorted({run.signatures.get(name, "") for run in runs}) for name in names}
    notes = [
        f"{name} is not compared: it was not computed alike ({' and '.join(variants)})"
        for name, variants in signatures.items()
        if len(variants) > 1
    ]
    return [name for name in names if len(signatures[name]) == 1], notes


class UnpairedError(Exception):
    """Two groups have no runs that could be paired; says why."""


def paired_runs(first: Group, other: Group) -> list[tuple[ComparedRun, ComparedRun]]:
    """Return the runs of equal seeds of two groups, or the only run of each, whatever its seed.

    Raises:
        UnpairedError: If there are none, or a group has several runs of one seed.
    """
    for group in (first, other):
        if len({run.seed for run in group.runs}) < len(group.runs):
            raise UnpairedError(f"{group.name} has several runs of one seed; name one of them")
    by_seed = {run.seed: run for run in first.runs}
    pairs = [(by_seed[run.seed], run) for run in other.runs if run.seed in by_seed]
    if not pairs and len(first.runs) == len(other.runs) == 1:
        pairs = [(first.runs[0], other.runs[0])]
    if not pairs:
        raise UnpairedError("they have no seed in common")
    return pairs


def significance(first: Group, other: Group, metrics: Sequence[str]) -> dict[str, Any]:
    """Test the differences of two groups on the same rows, pairing runs of equal seeds, or the only run of each.

    Returns:
        `test` (the method), and by score `difference` (the mean) and `p` (by seed); or `why_not`, the reason for no test.
    """
    try:
        pairs = paired_runs(first, other)
    except UnpairedError as error:
        return {"why_not": str(error)}
    tests = {run.seed: differences(base.scored_rows(metrics), run.scored_rows(metrics)) for base, run in pairs}
    for test in tests.values():
        if "why_not" in test:
            return {"why_not": test["why_not"]}
    first_test = next(iter(tests.values()))
    return {
        "test": first_test["test"],
        "difference": {
            name: statistics.fmean(test["difference"][name] for test in tests.values())
            for name in first_test["difference"]
        },
        "p": {name: {str(seed): test["p"][name] for seed, test in tests.items()} for name in first_test["p"]},
    }


def over_seeds(first: Group, other: Group, name: str) -> dict[str, Any]:
    """Test the difference of a score over the seeds of two groups, paired where they have the same.

    Returns:
        The fields of `SeedTest`; `why_not` where a group has a single run, from which nothing follows for other seeds.
    """
    alone = [group.name for group in (first, other) if len(group.runs) < 2]
    if alone:
        return {"why_not": f"{' and '.join(alone)} {'has' if len(alone) == 1 else 'have'} one seed"}
    seeds = [[run.seed for run in group.runs] for group in (first, other)]
    scores = [[run.scores[name] for run in group.runs] for group in (first, other)]
    return asdict(seed_test(*scores, paired=seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])))


def group_score(group: Group, name: str) -> dict[str, Any]:
    """Return a score's mean and standard deviation over the runs of a group, and each run's value and interval."""
    values = [run.scores[name] for run in group.runs]
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "intervals": [run.intervals.get(name) for run in group.runs],
    }


def _mean_cost(group: Group) -> dict[str, Any]:
    """Return the mean of each cost that all runs have, and whether any energy is estimated."""
    costs = [
        {**run.cost, **{f"{key}_parameters": n for key, n in run.cost["parameters"].items()}}
        for run in group.runs
        if run.cost
    ]
    if len(costs) < len(group.runs):
        return {}
    means = {
        key: statistics.fmean(cost[key] for cost in costs)
        for key, value in costs[0].items()
        if isinstance(value, int | float) and all(isinstance(cost.get(key), int | float) for cost in costs)
    }
    return {**means, "energy_estimated": any(cost["energy_estimated"] for cost in costs)}
