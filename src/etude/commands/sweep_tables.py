"""The tables of `etude compare SWEEP`: its trials, the best first, and the importance of what varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etude.commands.compare_tables import ABSENT, ComparisonTable, score_cell
from etude.report.writing import duration, mean_and_deviation
from etude.sweeps.space import setting


def sweep_tables(comparison: Mapping[str, Any]) -> list[ComparisonTable]:
    """Return the comparison of a sweep as tables: trials, and where they are known importances."""
    tables = [_trials(comparison)]
    if comparison["importances"]:
        rows = [[name, f"{share:.2f}"] for name, share in comparison["importances"].items()]
        tables.append(ComparisonTable("Importance", ["parameter", "share"], rows))
    return tables


def _trials(comparison: Mapping[str, Any]) -> ComparisonTable:
    trials = comparison["trials"]
    columns: list[tuple[str, list[str]]] = [("trial", [str(trial["trial"]) for trial in trials])]
    if len({trial["stage"] for trial in trials}) > 1:
        columns.append(("stage", [trial["stage"] for trial in trials]))
    columns += [
        (name, [_setting(trial["configuration"], name) for trial in trials]) for name in comparison["parameters"]
    ]
    columns.append(("seeds", [", ".join(map(str, trial["seeds"])) or ABSENT for trial in trials]))
    validations = [_spread(trial["validation"]) for trial in trials]
    columns.append((comparison["metric"] or "validation", validations))
    tested = {name for trial in trials for name in trial["against_best"].get("holm", {})}
    for name in dict.fromkeys(name for trial in trials for name in trial["scores"]):
        cells = [score_cell(trial["scores"][name]) if name in trial["scores"] else ABSENT for trial in trials]
        columns.append((name, cells))
        if (bare := name.partition("/")[2]) in tested:
            corrected = [trial["against_best"].get("holm", {}).get(bare) for trial in trials]
            columns.append(("p", [ABSENT if p is None else f"{p:.3g}" for p in corrected]))
    columns.append(("time", [duration(trial["seconds"]) for trial in trials]))
    if any(trial["state"] != "finished" for trial in trials):
        columns.append(("state", [trial["state"] for trial in trials]))
    rows = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]
    return ComparisonTable("Trials", [name for name, _ in columns], rows)


def _setting(configuration: Mapping[str, Any], name: str) -> str:
    return setting(configuration[name]) if name in configuration else ABSENT


def _spread(values: Mapping[str, Any] | None) -> str:
    return ABSENT if values is None else mean_and_deviation(values["mean"], values["sd"])


def sweep_notes(comparison: Mapping[str, Any]) -> list[str]:
    """Return what stands below the tables."""
    trials: Sequence[Mapping[str, Any]] = comparison["trials"]
    notes = [f"{len(comparison['left_out'])} members are not finished, and left out"] if comparison["left_out"] else []
    if comparison["metric"] is None:
        notes.append("the members are judged by different scores, so that none is the best")
    elif len(trials) > 1:
        direction = "largest" if comparison["mode"] == "max" else "smallest"
        notes.append(f"the best first: by the mean of {comparison['metric']} in validations, the {direction}")
    if any((trial["validation"] or {}).get("sd") is not None for trial in trials):
        notes.append("±: standard deviation over seeds")
    tests = {trial["against_best"]["test"] for trial in trials if "test" in trial["against_best"]}
    count = sum(len(trial["against_best"].get("holm", {})) for trial in trials)
    notes += [
        f"p: of the difference to trial {comparison['best']} on the same rows, pooled over seeds, by paired approximate "
        f"randomization ({test}), corrected for {count} tests by Holm's method"
        for test in sorted(tests)
    ]
    if comparison["importances"]:
        notes.append("importance: of which values are among the best scores, by PED-ANOVA")
    elif comparison["parameters"]:
        notes.append("importances are not known: they need four finished trials of different scores")
    notes += [f"trial {one['trial']} failed: {one['reason']}" for one in trials if one["state"] == "failed"]
    notes += [f"{name}: {signature}" for name, signature in comparison["signatures"].items()]
    return [*notes, *comparison["notes"]]


def sweep_records(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a flat record of each trial, with plain numbers, for CSV."""
    validation = comparison["metric"] or "validation"
    records = []
    for trial in comparison["trials"]:
        record: dict[str, Any] = {"trial": trial["trial"], "stage": trial["stage"], "state": trial["state"]}
        record |= {name: trial["configuration"].get(name) for name in comparison["parameters"]}
        record["seeds"] = " ".join(map(str, trial["seeds"]))
        known = trial["validation"] or {"mean": None, "sd": None}
        record |= {validation: known["mean"], f"{validation}.sd": known["sd"]}
        tests = trial["against_best"]
        for name, values in trial["scores"].items():
            record |= {name: values["mean"], f"{name}.sd": values["sd"]}
            if (bare := name.partition("/")[2]) in tests.get("p", {}):
                record |= {f"{name}.{kind}": tests[kind][bare] for kind in ("difference", "p", "holm")}
        record["seconds"] = trial["seconds"]
        records.append(record)
    return records
