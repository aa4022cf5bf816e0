"""The cost of a run as rows of a table."""

from __future__ import annotations

from etude.report.writing import count, duration, number
from etude.runs.documents import Cost


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    """Return the content of `cost.json`, without steps, tokens and time, as rows of names and texts."""
    rows = [("FLOPs of training", "not known" if cost.flops is None else f"{cost.flops:.4g}")]
    if cost.model_flops_utilisation is not None and cost.peak_flops is not None:
        peak = f"{number(cost.peak_flops)} FLOP/s, {cost.peak_is}"
        rows.append(("Model FLOPs utilisation", f"{cost.model_flops_utilisation:.3f} of {peak}"))
    rows.append(("Time in validations", duration(cost.validation_seconds)))
    rows.append(("CPU time of all processes", duration(cost.cpu_seconds)))
    if cost.gpu_seconds:
        rows.append(("GPU time", duration(cost.gpu_seconds)))
        rows.append(("Largest memory of a GPU", f"{count(cost.peak_gpu_memory_mb)} MB"))
    rows.append(("Largest memory of a process", f"{count(cost.peak_memory_mb)} MB"))
    rows.append(("Energy", f"{joules(cost.energy_joules)} ({cost.energy_is})"))
    return rows


def time_parts(cost: Cost) -> list[tuple[str, float]]:
    """Return the parts of the training's time that are told apart, as names and seconds; nothing of a training without time."""
    if not 0 <= cost.validation_seconds <= cost.seconds or not cost.seconds:
        return []
    return [("steps", cost.seconds - cost.validation_seconds), ("validations", cost.validation_seconds)]


def joules(value: float) -> str:
    """Return an energy in J, kJ or MJ with four significant digits."""
    for size, unit in ((1e6, "MJ"), (1e3, "kJ")):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g} J"
