"""The summary of a run that the terminal shows when training ends."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.report.contents import Contents
from etude.report.page import REPORT
from etude.report.writing import count, duration, score
from etude.runs.record import RECORD


def terminal_summary(run: Path) -> None:
    """Print a run's scores, cost, files and the next commands to stderr.

    Args:
        run: The run's folder, finished or not.
    """
    contents = Contents.read(run)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    # `Text`, because rich would interpret a bracket in a name as a style.
    for name, value in [*_scores(contents), *_cost(contents), *_files(contents)]:
        table.add_row(name, Text(value))
    console = Console(stderr=True, highlight=False, force_jupyter=False)
    console.print()
    console.print(Text(f"{contents.experiment}/{run.resolve().name}: {contents.status}", style="bold"))
    console.print(table)
    for command in _commands(contents):
        console.print(Text(f"  {command}"), soft_wrap=True)


def _scores(contents: Contents) -> list[tuple[str, str]]:
    rows = []
    for evaluation in contents.evaluations:
        for name, value in evaluation.scores.items():
            interval = evaluation.intervals.get(name)
            rows.append((name, score(value) + (f"  [{score(interval[0])}, {score(interval[1])}]" if interval else "")))
    best = contents.best_validation()
    if best:
        rows.append((contents.metric, f"{score(best[1])} at step {count(best[0])}, the best"))
    return rows


def _cost(contents: Contents) -> list[tuple[str, str]]:
    rows = []
    if contents.parameters is not None:
        rows.append(("parameters", count(contents.parameters)))
    if contents.events:
        last = contents.events[-1]
        rows.append(("trained", f"{count(last.step)} steps, {count(last.tokens)} tokens, {duration(last.seconds)}"))
        rows.append(("speed", f"{count(contents.tokens_per_second)} tokens/s, validation included"))
    shown = ("FLOPs of training", "Model FLOPs utilisation", "Energy")
    rows += [(name.lower().replace("flops", "FLOPs"), text) for name, text in contents.cost if name in shown]
    return rows


def _files(contents: Contents) -> list[tuple[str, str]]:
    names = {"best": contents.best, "last": contents.last}
    checkpoints = [f"{name} {folder}" for name, folder in names.items() if folder]
    rows = [("checkpoints", ", ".join(checkpoints))] if checkpoints else []
    rows.append(("folder", str(contents.run)))
    rows += [(name, str(contents.run / file)) for name, file in (("report", REPORT), ("record", RECORD))]
    return rows


def _commands(contents: Contents) -> list[str]:
    run = shlex.quote(str(contents.run))
    if contents.status == "finished":
        direction = next((f" direction={name}" for name in _directions(contents.config.get("data"))), "")
        return [f"etude predict {run}{direction}", *(f"etude {verb} {run}" for verb in ("evaluate", "report"))]
    return [f"etude {verb} {run}" for verb in ("resume", "report")]


def _directions(data: Any) -> Sequence[str]:
    """Return the directions of a translation in several, be they those of the data or of the parts of a mixture."""
    if not isinstance(data, Mapping):
        return ()
    pairs = data.get("pairs")
    return pairs if isinstance(pairs, list) else _directions(data.get("of"))
