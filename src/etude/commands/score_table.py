"""The scores of evaluations as a table on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.report.writing import score


def show_scores(evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the scores of one or several runs to stderr, with intervals, signatures and p-values.

    Args:
        evaluations: Content of `evaluations/<split>.json` by the run's folder, with differences from the first run under
            `against`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    # `Text`, because rich would interpret a bracket in a name as a style.
    table.add_column("")
    for run, evaluation in evaluations.items():
        table.add_column(Text(f"{Path(run).name} ({evaluation['checkpoint']})"), justify="right", no_wrap=True)
    names = list(dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation["scores"]))
    for name in names:
        table.add_row(Text(name), *(Text(_cell(evaluation, name)) for evaluation in evaluations.values()))
    console = Console(stderr=True, highlight=False, force_jupyter=False)
    console.print(table)
    signatures: dict[str, str] = {}
    for evaluation in evaluations.values():
        signatures |= evaluation["signatures"]
    for name, signature in signatures.items():
        console.print(Text(f"{name}  {signature}", style="dim"), soft_wrap=True)
    for run, evaluation in evaluations.items():
        if "why_not" in (test := evaluation.get("against", {})):
            console.print(Text(f"{Path(run).name} is not compared: {test['why_not']}"), soft_wrap=True)


def _cell(evaluation: Mapping[str, Any], name: str) -> str:
    """Return `37.1 [36.0, 38.2] p=0.012`; interval and p-value only where there are any."""
    if name not in evaluation["scores"]:
        return ""
    interval = evaluation["intervals"].get(name)
    p_value = evaluation.get("against", {}).get("p", {}).get(name.partition("/")[2])
    ends = f" [{score(interval[0])}, {score(interval[1])}]" if interval else ""
    return score(evaluation["scores"][name]) + ends + (f" p={p_value:.3g}" if p_value is not None else "")
