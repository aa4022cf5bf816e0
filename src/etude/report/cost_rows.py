"""What a run has cost, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.report.writing import count, duration, number


def cost_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of a table of what `cost.json` says besides steps, tokens and time."""
    rows = [("FLOPs of training", "not known" if values["flops"] is None else f"{values['flops']:.4g}")]
    if values["model_flops_utilisation"] is not None:
        against = f"{number(values['peak_flops'])} FLOP/s, {values['peak_is']}"
        rows.append(("Model FLOPs utilisation", f"{values['model_flops_utilisation']:.3f} of {against}"))
    rows.append(("Time in validations", duration(values["validation_seconds"])))
    rows.append(("CPU time of all processes", duration(values["cpu_seconds"])))
    if values["gpu_seconds"]:
        rows.append(("GPU time", duration(values["gpu_seconds"])))
        rows.append(("Largest memory of a GPU", f"{count(values['peak_gpu_memory_mb'])} MB"))
    rows.append(("Largest memory of a process", f"{count(values['peak_memory_mb'])} MB"))
    rows.append(("Energy", f"{joules(values['energy_joules'])} ({values['energy_is']})"))
    return rows


def joules(value: float) -> str:
    """Return an energy in J, kJ or MJ, four digits of it."""
    for size, unit in ((1e6, "MJ"), (1e3, "kJ")):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g} J"


def read_cost_rows(path: Path) -> list[tuple[str, str]]:
    """Read `cost.json` as such rows."""
    return cost_rows(json.loads(path.read_text()))
