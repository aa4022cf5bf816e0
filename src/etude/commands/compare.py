"""`etude compare`: what differs between runs in configuration, in scores, and in cost.

Runs that differ in nothing but their seed are one group, a row of each table. The first group is what the others are
compared with.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.commands.compare_tables import FORMATS, explained, show, tables, written
from etude.commands.compared_run import ComparedRun, common_split
from etude.errors import ConfigurationError
from etude.report.significance import differences
from etude.runs.folder import NONE, state

OWN = ("split", "format", "metric", "paths.outputs")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        name: The path of the first, from where all runs are.
        runs: In the order of their seeds.
    """

    name: str
    runs: list[ComparedRun]


def compare(folders: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any] | str:
    """Compare finished runs; those that are not finished are named and left out.

    Args:
        folders: Of the runs.
        overrides: `split` (else `test`, else `val`); `metric`, a name or several: the scores whose differences are tested,
            by default the one that validations were judged by; `format`: `markdown`, `latex` or `json`.

    Returns:
        The tables as a text, or all that they say as plain values.

    Raises:
        ConfigurationError: If there is nothing to compare, or an override does not fit.
    """
    unknown = next((key for key in overrides if key not in OWN), None)
    chosen = str(overrides.get("format", "markdown"))
    if unknown is not None or chosen not in FORMATS:
        given = f"format={chosen}" if unknown is None else unknown
        raise ConfigurationError(
            f"etude compare does not know {given}; it takes split=, metric= and format={'|'.join(FORMATS)} (command line)"
        )
    finished = [folder for folder in folders if state(folder) == "finished"]
    left_out = [str(folder) for folder in folders if folder not in finished]
    for folder in left_out:
        _log.warning("%s is not finished, and left out; etude resume %s", folder, folder)
    if len(finished) < 2:
        raise ConfigurationError(
            f"finished runs that are given: {len(finished)}; name two or more, or a folder of them"
        )
    split = common_split(finished, overrides.get("split"))
    groups = grouped([ComparedRun.read(folder, split) for folder in finished])
    found = {"split": split, **compared(groups, split, _asked(overrides.get("metric"), groups)), "left_out": left_out}
    shown, notes = tables(found), explained(found)
    show(shown, notes)
    return found if chosen == "json" else written(shown, notes, chosen)


def _asked(metric: Any, groups: Sequence[Group]) -> list[str]:
    """Return the names of the scores to test; by default the main one of the first run, or its first that is no loss."""
    if metric is not None:
        return [metric] if isinstance(metric, str) else [str(name) for name in metric]
    first = groups[0].runs[0]
    names = [name.partition("/")[2] for name in first.scores]
    return [first.main] if first.main != "loss" else [name for name in names if name != "loss"][:1]


def grouped(runs: Sequence[ComparedRun]) -> list[Group]:
    """Return the groups, in the order in which their first runs are given."""
    found: dict[tuple[tuple[str, str], ...], list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(run.configuration.items())), []).append(run)
    place = os.path.commonpath([run.folder.parent for run in runs])
    return [
        Group(members[0].folder.relative_to(place).as_posix(), sorted(members, key=lambda run: run.seed))
        for members in found.values()
    ]


def compared(groups: Sequence[Group], split: str, asked: Sequence[str]) -> dict[str, Any]:
    """Return all that is to be said of groups, as plain values.

    Args:
        groups: At least one.
        split: That all were evaluated on.
        asked: Scores whose differences are tested.
    """
    keys = differing(groups)
    names, notes = comparable_scores(groups, split)
    first, *others = groups
    against: list[dict[str, Any]] = [{}]
    against += [significance(first, other, asked) if names else {} for other in others]
    notes += [
        f"{other.name} is not tested against {first.name}: {said['why_not']}"
        for other, said in zip(others, against[1:], strict=True)
        if "why_not" in said
    ]
    signatures = {name: first.runs[0].signatures[name] for name in names if name in first.runs[0].signatures}
    return {
        "groups": [
            {
                "name": group.name,
                "runs": [str(run.folder) for run in group.runs],
                "seeds": [run.seed for run in group.runs],
                "configuration": {key: group.runs[0].configuration.get(key, NONE) for key in keys},
                "scores": {name: _score(group, name) for name in names},
                "against_first": said,
                "cost": _mean_cost(group),
            }
            for group, said in zip(groups, against, strict=True)
        ],
        "signatures": signatures,
        "notes": notes,
    }


def differing(groups: Sequence[Group]) -> list[str]:
    """Return the keys whose values are not the same in all groups, in order."""
    configurations = [group.runs[0].configuration for group in groups]
    keys = sorted({key for one in configurations for key in one})
    return [key for key in keys if len({one.get(key, NONE) for one in configurations}) > 1]


def comparable_scores(groups: Sequence[Group], split: str) -> tuple[list[str], list[str]]:
    """Return the names of the scores that all runs have and that were computed alike, and what is to be said of the others."""
    runs = [run for group in groups for run in group.runs]
    first = runs[0]
    others = [str(run.folder) for run in runs if run.judged_on != first.judged_on]
    if others:
        return [], [f"scores are not compared: the {split} data of {', '.join(others)} are not those of {first.folder}"]
    names = [name for name in first.scores if all(name in run.scores for run in runs)]
    unlike = {name: sorted({run.signatures.get(name, "") for run in runs}) for name in names}
    notes = [
        f"{name} is not compared: it was not computed alike ({' and '.join(found)})"
        for name, found in unlike.items()
        if len(found) > 1
    ]
    return [name for name in names if len(unlike[name]) == 1], notes


def significance(first: Group, other: Group, asked: Sequence[str]) -> dict[str, Any]:
    """Test the differences of two groups on the same rows: of runs of the same seed, or of the only run of each.

    Returns:
        `test`, and by the score's name `difference` (the mean) and `p` (by seed); or `why_not`.
    """
    by_seed = {run.seed: run for run in first.runs}
    pairs = [(by_seed[run.seed], run) for run in other.runs if run.seed in by_seed]
    if not pairs and len(first.runs) == len(other.runs) == 1:
        pairs = [(first.runs[0], other.runs[0])]
    if not pairs:
        return {"why_not": "they have no seed in common"}
    tested = {run.seed: differences(base.judged(asked), run.judged(asked)) for base, run in pairs}
    for said in tested.values():
        if "why_not" in said:
            return {"why_not": said["why_not"]}
    said = next(iter(tested.values()))
    return {
        "test": said["test"],
        "difference": {
            name: statistics.fmean(one["difference"][name] for one in tested.values()) for name in said["difference"]
        },
        "p": {name: {str(seed): one["p"][name] for seed, one in tested.items()} for name in said["p"]},
    }


def _score(group: Group, name: str) -> dict[str, Any]:
    """Return a score's mean and standard deviation over the runs of a group, and what each run has."""
    values = [run.scores[name] for run in group.runs]
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "intervals": [run.intervals.get(name) for run in group.runs],
    }


def _mean_cost(group: Group) -> dict[str, Any]:
    """Return the mean of each number in the runs' costs, of those that all have; and whether any energy is estimated."""
    flat = [
        {**run.cost, **{f"{key}_parameters": n for key, n in run.cost["parameters"].items()}}
        for run in group.runs
        if run.cost
    ]
    if len(flat) < len(group.runs):
        return {}
    means = {
        key: statistics.fmean(one[key] for one in flat)
        for key, value in flat[0].items()
        if isinstance(value, int | float) and all(isinstance(one.get(key), int | float) for one in flat)
    }
    return {**means, "energy_estimated": any(one["energy_estimated"] for one in flat)}
