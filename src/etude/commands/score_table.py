"""The scores of an evaluation for people, on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.report.writing import score


def show_scores(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Show the scores of one run or of several, with intervals, signatures and p-values.

    Args:
        found: By the run's folder, what its `evaluations/<split>.json` says, and perhaps `against` the first run.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    # `Text`, since rich would take a bracket in a name for a style.
    table.add_column("")
    for run, one in found.items():
        table.add_column(Text(f"{Path(run).name} ({one['checkpoint']})"), justify="right", no_wrap=True)
    names = list(dict.fromkeys(name for one in found.values() for name in one["scores"]))
    for name in names:
        table.add_row(Text(name), *(Text(_cell(one, name)) for one in found.values()))
    console = Console(stderr=True, highlight=False)
    console.print(table)
    signatures = {name: text for one in found.values() for name, text in one["signatures"].items()}
    for name, signature in signatures.items():
        console.print(Text(f"{name}  {signature}", style="dim"), soft_wrap=True)
    for run, one in found.items():
        if "why_not" in one.get("against", {}):
            console.print(Text(f"{Path(run).name} is not compared: {one['against']['why_not']}"), soft_wrap=True)


def _cell(one: Mapping[str, Any], name: str) -> str:
    """Return `37.1 [36.0, 38.2] p=0.012`, as far as there is more than the score."""
    if name not in one["scores"]:
        return ""
    interval = one["intervals"].get(name)
    chance = one.get("against", {}).get("p", {}).get(name.partition("/")[2])
    ends = f" [{score(interval[0])}, {score(interval[1])}]" if interval else ""
    return score(one["scores"][name]) + ends + (f" p={chance:.3g}" if chance is not None else "")
