"""The tables of `etude compare`, for the terminal, in Markdown, in LaTeX and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from etude.report.cost_rows import joules
from etude.report.writing import count, duration, score

FORMATS = ("markdown", "latex", "csv", "json")

ABSENT = "–"

COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "total_parameters": ("parameters", count),
    "trainable_parameters": ("trained", count),
    "tokens": ("tokens", count),
    "flops": ("FLOPs", lambda value: f"{value:.4g}"),
    "seconds": ("time", duration),
    "cpu_seconds": ("CPU time", duration),
    "gpu_seconds": ("GPU time", duration),
    "model_flops_utilisation": ("MFU", lambda value: f"{value:.3f}"),
    "peak_memory_mb": ("memory", lambda value: f"{count(value)} MB"),
    "energy_joules": ("energy", joules),
}
"""Costs to show, with the title of the column and the formatter of the value."""

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "≤": r"$\le$", "<": r"$<$", ">": r"$>$",
})  # fmt: skip


@dataclass(frozen=True)
class ComparisonTable:
    """Rows of texts, each beginning with the row's name.

    Attributes:
        title: Title of the table.
        header: Names of the columns.
        rows: The rows, each as long as the header.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def transposed(self) -> ComparisonTable:
        """Return the table with rows as columns."""
        header, *rows = ([*column] for column in zip(self.header, *self.rows, strict=True))
        return ComparisonTable(self.title, header, rows)


def comparison_tables(comparison: Mapping[str, Any]) -> list[ComparisonTable]:
    """Return a comparison as tables of configuration, scores and cost, without empty ones."""
    tables = [_configuration(comparison), _scores(comparison), _cost(comparison)]
    return [table for table in tables if len(table.header) > 1 and table.rows]


def comparison_records(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a comparison as a flat record for each group, with plain numbers, for `as_csv`."""
    records = []
    for group in comparison["groups"]:
        record: dict[str, Any] = {"run": group["name"], "seeds": " ".join(map(str, group["seeds"]))}
        record |= group["configuration"]
        tests = group["against_first"]
        for name, values in group["scores"].items():
            record |= {name: values["mean"], f"{name}.sd": values["sd"]}
            if (bare := name.partition("/")[2]) in tests.get("p", {}):
                largest = max(tests["p"][bare].values())
                record |= {f"{name}.difference": tests["difference"][bare], f"{name}.p": largest}
        records.append(record | {name: group["cost"].get(name) for name in COSTS if group["cost"]})
    return records


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as CSV: a header with the names of all, then a row of each, in which what it does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for one in records for name in one)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _configuration(comparison: Mapping[str, Any]) -> ComparisonTable:
    """Return the keys that differ, as columns, or as rows if there are more of them than groups."""
    groups = comparison["groups"]
    keys = list(groups[0]["configuration"])
    rows = [[group["name"], *(group["configuration"][key] for key in keys)] for group in groups]
    table = ComparisonTable("What differs in configuration", ["run", *keys], rows)
    return table.transposed() if len(keys) > len(groups) else table


def _scores(comparison: Mapping[str, Any]) -> ComparisonTable:
    groups = comparison["groups"]
    names = list(groups[0]["scores"])
    tested = {name for group in groups for name in group["against_first"].get("p", {})}
    header = ["run", "seeds"]
    for name in names:
        header += [name, "p"] if name.partition("/")[2] in tested else [name]
    rows = []
    for group in groups:
        row = [group["name"], ", ".join(map(str, group["seeds"]))]
        for name in names:
            row.append(score_cell(group["scores"][name]))
            if (bare := name.partition("/")[2]) in tested:
                row.append(_largest(group["against_first"].get("p", {}).get(bare)))
        rows.append(row)
    return ComparisonTable("Scores", header, rows if names else [])


def score_cell(values: Mapping[str, Any]) -> str:
    """Return `37.1 ± 0.4` over seeds, or `37.1 [36.0, 38.2]` for a single run."""
    if values["sd"] is not None:
        return f"{score(values['mean'])} ± {score(values['sd'])}"
    ends = values["intervals"][0]
    return score(values["mean"]) + (f" [{score(ends[0])}, {score(ends[1])}]" if ends else "")


def _largest(p: Mapping[str, float] | None) -> str:
    return f"{max(p.values()):.3g}" if p else ABSENT


def _cost(comparison: Mapping[str, Any]) -> ComparisonTable:
    groups = comparison["groups"]
    names = [name for name in COSTS if any(group["cost"].get(name) for group in groups)]
    rows = []
    for group in groups:
        cost = group["cost"]
        texts = [COSTS[name][1](cost[name]) if name in cost else ABSENT for name in names]
        if "energy_joules" in names and cost.get("energy_estimated"):
            texts[names.index("energy_joules")] += " (estimated)"
        rows.append([group["name"], *texts])
    return ComparisonTable("Cost of a run", ["run", *(COSTS[name][0] for name in names)], rows)


def table_notes(comparison: Mapping[str, Any]) -> list[str]:
    """Return the notes below the tables: tests, deviations and signatures."""
    groups = comparison["groups"]
    tests = {group["against_first"]["test"] for group in groups if "test" in group["against_first"]}
    notes = [
        f"p: of the difference to {groups[0]['name']} on the same rows, by paired approximate randomization ({test}); "
        "over several seeds, the largest"
        for test in sorted(tests)
    ]
    if any(values["sd"] is not None for group in groups for values in group["scores"].values()):
        notes.append("±: standard deviation over seeds")
    for group in groups[1:]:
        notes += [_seed_note(name, group, groups[0], test) for name, test in group["over_seeds"].items()]
    notes += [f"{name}: {signature}" for name, signature in comparison["signatures"].items()]
    return [*notes, *comparison["notes"]]


def _seed_note(name: str, group: Mapping[str, Any], first: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """Return what the seeds say of a difference, in a sentence."""
    versus = f"{name}, {group['name']} minus {first['name']}"
    if "why_not" in test:
        return f"{versus}: whether it holds for other seeds cannot be told: {test['why_not']}"
    low, high = (f"{test[end]:+.2g}" for end in ("low", "high"))
    how = "paired by seed" if test["paired"] else "Welch"
    told = f"{versus}: {test['difference']:+.3g} [{low}, {high}] over seeds (t-test, {how}, p = {test['p']:.2g})"
    if test["needed"] is None:
        return told
    enough = max(len(group["seeds"]), len(first["seeds"])) >= test["needed"]
    return told + ("" if enough else f"; to tell a difference of this size takes some {test['needed']:,} seeds of each")


def show(tables: Sequence[ComparisonTable], notes: Sequence[str], *, fold: bool = True) -> None:
    """Print tables to stderr.

    Args:
        tables: The tables.
        notes: What stands below them.
        fold: Whether to make tables fit the terminal: to transpose those with more columns than rows, and fold long cells.
    """
    console = Console(stderr=True, highlight=False, force_jupyter=False)
    for table in tables:
        table = table.transposed() if fold and len(table.header) > len(table.rows) + 1 else table
        rendered = RichTable(title=Text(table.title, style="bold"), title_justify="left", box=None, pad_edge=False)
        for number, name in enumerate(table.header):
            rendered.add_column(Text(name, style="dim"), justify="right" if number else "left", overflow="fold")
        for row in table.rows:
            rendered.add_row(*(Text(text) for text in row))
        if not fold:  # a number that is cut into pieces is harder to read than a line that is too long
            rendered.width = console.measure(rendered, options=console.options.update(width=10_000)).maximum
        console.print(rendered, width=rendered.width, crop=fold, soft_wrap=not fold)
        console.print()
    for note in notes:
        console.print(Text(note, style="dim"), soft_wrap=True)


def render(tables: Sequence[ComparisonTable], notes: Sequence[str], output_format: str) -> str:
    """Return tables and notes as `markdown` or `latex` (which needs the package booktabs)."""
    write, note = (_latex, _latex_note) if output_format == "latex" else (_markdown, _markdown_note)
    return "\n\n".join([*map(write, tables), *map(note, notes)]) + "\n"


def _markdown(table: ComparisonTable) -> str:
    marks = ["---", *["---:"] * (len(table.header) - 1)]
    lines = [_markdown_row(row) for row in (table.header, marks, *table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines])


def _markdown_row(row: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for text in row) + " |"


def _markdown_note(note: str) -> str:
    return note.replace("|", "\\|")


def _latex(table: ComparisonTable) -> str:
    body = [_latex_row(row) for row in table.rows]
    columns = "l" + "r" * (len(table.header) - 1)
    start = [
        rf"% {table.title}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(table.header),
        r"\midrule",
    ]
    return "\n".join([*start, *body, r"\bottomrule", r"\end{tabular}"])


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(text.replace("\n", " ").translate(_LATEX) for text in row) + r" \\"


def _latex_note(note: str) -> str:
    return note.translate(_LATEX)
