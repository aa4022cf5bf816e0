"""Cost of a run: FLOPs, time, memory and energy, in `cost.json`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import lightning
import numpy as np
from jaxtyping import Int
from lightning.pytorch.callbacks import Callback

from etude.atomic import write_json
from etude.data.base import PlannedData
from etude.data.plan import EpochPlan
from etude.runs.folder import COST
from etude.runs.manifest import parameters
from etude.runs.record import WALL_CLOCK
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.running_sums import gathered
from etude.training.build import Experiment
from etude.training.callbacks.cost_meter import Meter, Spent
from etude.training.loggers.tracking import RecordLogger
from etude.training.peak_flops import PeakFlops, peak_flops

COUNTED = (
    "products of matrices at real tokens, forward and backward (of wrapped models as torch counts them); "
    "validations not included"
)


def write_cost(run: SavedRun, experiment: Experiment, trainer: lightning.Trainer) -> None:
    """Write the cost of a training to `cost.json` and log it to trackers. Called by all ranks together.

    The record does not have it: except for the clock, it follows from the configuration.

    Args:
        run: The run.
        experiment: The run's experiment.
        trainer: The run's trainer, after its last step.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    spent = next(callback for callback in callbacks if isinstance(callback, Meter)).spent()
    peak = _summed(peak_flops(trainer.strategy.root_device, experiment.config.precision))
    values = cost(experiment, trainer.global_step, spent, peak)
    if trainer.is_global_zero:
        write_json(run.path / COST, values)
    for logger in trainer.loggers:
        if not isinstance(logger, RecordLogger):
            logger.log_metrics(summary(values), trainer.global_step)


def _summed(peak: PeakFlops | None) -> PeakFlops | None:
    """Return the peak FLOPs of all ranks together."""
    if peak is None:
        return None
    return PeakFlops(sum(rank["flops"] for rank in gathered([{"flops": peak.flops}])), peak.source)


def cost(experiment: Experiment, step: int, spent: Spent, peak: PeakFlops | None) -> dict[str, Any]:
    """Return the cost of the first steps of a run as plain values; None could not be measured.

    Args:
        experiment: The experiment.
        step: Number of steps.
        spent: Time, energy and memory, as measured.
        peak: Peak FLOPs of all devices together.
    """
    flops = training_flops(experiment.task, experiment.data, step)
    training = spent.seconds - spent.validation_seconds
    utilisation = flops / training / peak.flops if flops and peak and training > 0 else None
    return {
        "parameters": parameters(experiment.task),
        "steps": step,
        "tokens": experiment.data.tokens_at(step),
        "flops": flops,
        "flops_are": COUNTED if flops is not None else "not known for this task or model",
        "model_flops_utilisation": utilisation,
        "peak_flops": peak.flops if peak else None,
        "peak_is": peak.source if peak else "not known for this device",
        "seconds": spent.seconds,
        "validation_seconds": spent.validation_seconds,
        "cpu_seconds": spent.cpu_seconds,
        "gpu_seconds": spent.gpu_seconds,
        "peak_memory_mb": spent.peak_memory_mb,
        "peak_gpu_memory_mb": spent.peak_gpu_memory_mb,
        **energy(spent, experiment.machine.watts_per_core),
    }


def training_flops(task: Task, data: PlannedData, step: int) -> int | None:
    """Return the exact number of floating-point operations of the first steps of a run.

    It is a function of the plan and of the parameters that train. Sampled segmentations count as the deterministic ones, as
    they do in the number of tokens.

    Returns:
        None if the task does not know the cost of an example.
    """
    examples = data.splits["train"]
    epochs, steps = divmod(step, data.clock.steps_per_epoch)
    last = ((rows, 1) for rows in _first_examples(data.plan(epochs), steps))
    flops = 0
    for rows, times in itertools.chain([(np.arange(1), 0)], data.read_before(epochs), last):
        example_flops = task.step_flops(examples.lengths[rows], examples.counts[rows])
        if example_flops is None:
            return None
        flops += times * _exact_sum(example_flops)
    return flops


def _first_examples(plan: EpochPlan, steps: int) -> Iterator[Int[np.ndarray, " n"]]:
    """Yield the examples of the first steps of a plan, one piece of it at a time."""
    for part in plan.parts():
        if steps <= 0:
            return
        yield part.order[: part.starts[min(steps, part.steps)]]
        steps -= part.steps


def _exact_sum(values: np.ndarray) -> int:
    """Return a sum that may exceed 2⁶³."""
    return int(values.sum(dtype=object))


def energy(spent: Spent, watts_per_core: float) -> dict[str, Any]:
    """Return the energy of a training in joules, and which part of it is estimated.

    Args:
        spent: Time and energy, as measured.
        watts_per_core: Power of a busy core: the factor of CPU seconds for which no counter could be read.
    """
    estimated = spent.unmetered_cpu_seconds * watts_per_core
    sources = ["RAPL: processors and memory, also of other programs on the machine"] if spent.cpu_joules else []
    sources += ["NVML: the GPUs"] if spent.gpu_joules else []
    if estimated:
        sources.append(f"estimated: {watts_per_core:g} W (trainer.watts_per_core) x CPU seconds without a counter")
    if spent.unmetered_gpu_seconds:
        sources.append(f"not measured: {spent.unmetered_gpu_seconds:.0f} GPU seconds (pip install nvidia-ml-py)")
    return {
        "energy_joules": spent.cpu_joules + spent.gpu_joules + estimated,
        "energy_estimated": estimated > 0,
        "energy_estimated_joules": estimated,
        "energy_is": "; ".join(sources) or "nothing was spent",
    }


def summary(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of `cost.json` by metric name; values that depend on the clock begin with `speed/`."""
    exact = ("flops", "tokens", "steps")
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    named = {f"{'cost/' if name in exact else WALL_CLOCK}{name}": float(value) for name, value in numbers.items()}
    return {f"cost/{name}_parameters": float(size) for name, size in values["parameters"].items()} | named
