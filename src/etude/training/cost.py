"""What a run has cost: `cost.json`, beside what it has achieved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback

from etude.data.base import PlannedData
from etude.runs.folder import COST, write_json
from etude.runs.manifest import parameters
from etude.runs.record import WALL_CLOCK
from etude.tasks.base import Task
from etude.tasks.running_sums import gathered
from etude.training.build import Experiment
from etude.training.callbacks.cost_meter import Meter, Spent
from etude.training.loggers.tracking import RecordLogger
from etude.training.peak_flops import PeakFlops, peak

COUNTED = (
    "products of matrices at real tokens, forward and backward (of wrapped models as torch counts them); "
    "validations not included"
)


def conclude_cost(run: Path, experiment: Experiment, trainer: lightning.Trainer) -> None:
    """Write what a training has cost into the run's folder, and tell it to dashboards. All ranks ask together.

    The record has none of it: but for the clock, it follows from the configuration.

    Args:
        run: The run's folder.
        experiment: What was trained.
        trainer: The trainer that did it, after its last step.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    spent = next(callback for callback in callbacks if isinstance(callback, Meter)).spent()
    found = peak(trainer.strategy.root_device, experiment.machine.precision)
    together = (
        PeakFlops(sum(one["flops"] for one in gathered([{"flops": found.flops}])), found.source) if found else None
    )
    values = cost(experiment, trainer.global_step, spent, together)
    if trainer.is_global_zero:
        write_json(run / COST, values)
    for logger in trainer.loggers:
        if not isinstance(logger, RecordLogger):
            logger.log_metrics(summary(values), trainer.global_step)


def cost(experiment: Experiment, step: int, spent: Spent, against: PeakFlops | None) -> dict[str, Any]:
    """Return what the first steps of a run have cost, as plain values; what is None could not be measured.

    Args:
        experiment: What was trained.
        step: How many steps.
        spent: By clocks and meters.
        against: The peak of all devices together.
    """
    flops = training_flops(experiment.task, experiment.data, step)
    training = spent.seconds - spent.validation_seconds
    known = flops is not None and against is not None and training > 0
    return {
        "parameters": parameters(experiment.task),
        "steps": step,
        "tokens": experiment.data.tokens_at(step),
        "flops": flops,
        "flops_are": COUNTED if flops is not None else "not known for this task or model",
        "model_flops_utilisation": flops / training / against.flops if known and flops and against else None,
        "peak_flops": against.flops if against else None,
        "peak_is": against.source if against else "not known for this device",
        "seconds": spent.seconds,
        "validation_seconds": spent.validation_seconds,
        "cpu_seconds": spent.cpu_seconds,
        "gpu_seconds": spent.gpu_seconds,
        "peak_memory_mb": spent.peak_memory_mb,
        "peak_gpu_memory_mb": spent.peak_gpu_memory_mb,
        **energy(spent, experiment.machine.watts_per_core),
    }


def training_flops(task: Task, data: PlannedData, step: int) -> int | None:
    """Return the floating-point operations of the first steps of a run, exactly: a function of the plan and of what trains.

    Segmentations that are drawn count as the plain ones, as tokens do.

    Returns:
        None if the task does not say what an example costs.
    """
    examples = data.splits["train"]
    each = task.training_flops(examples.lengths, examples.counts)
    if each is None:
        return None
    epochs, steps = divmod(step, data.clock.steps_per_epoch)
    done = epochs * _exact_sum(each)
    if steps:
        plan = data.plan(epochs)
        done += _exact_sum(each[plan.order[: plan.starts[steps]]])
    return done


def _exact_sum(values: np.ndarray) -> int:
    """Return a sum that may be above 2⁶³."""
    return int(values.sum(dtype=object))


def energy(spent: Spent, watts_per_core: float) -> dict[str, Any]:
    """Return the joules of a training, and which of them are estimated.

    Args:
        spent: By clocks and meters.
        watts_per_core: Of a core that works: what CPU seconds are multiplied by where no counter could be read.
    """
    guessed = spent.unmetered_cpu_seconds * watts_per_core
    sources = ["RAPL: processors and memory, also of other programs on the machine"] if spent.cpu_joules else []
    sources += ["NVML: the GPUs"] if spent.gpu_joules else []
    if guessed:
        sources.append(f"estimated: {watts_per_core:g} W (trainer.watts_per_core) x CPU seconds without a counter")
    if spent.unmetered_gpu_seconds:
        sources.append(f"not measured: {spent.unmetered_gpu_seconds:.0f} GPU seconds (pip install nvidia-ml-py)")
    return {
        "energy_joules": spent.cpu_joules + spent.gpu_joules + guessed,
        "energy_estimated": guessed > 0,
        "energy_estimated_joules": guessed,
        "energy_is": "; ".join(sources) or "nothing was spent",
    }


def summary(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of `cost.json` by the names that dashboards know: what the clock decides begins with `speed/`."""
    exact = ("flops", "tokens", "steps")
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    named = {f"{'cost/' if name in exact else WALL_CLOCK}{name}": float(value) for name, value in numbers.items()}
    return {f"cost/{name}_parameters": float(size) for name, size in values["parameters"].items()} | named
