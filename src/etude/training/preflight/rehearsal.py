"""A rehearsal: a whole training in small, whose steps and evaluations are the largest of the experiment's plan.

`python -m etude.training.preflight.rehearsal FOLDER` rehearses the run whose configuration is in a folder. It is started by
`etude.training.preflight.trial`, never by hand. The code is that of a training, from the data to the scores at the end: a
checkpoint's copy, averaged weights and beam search take memory as well.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Int
from lightning.pytorch.callbacks import Callback
from torch.overrides import TorchFunctionMode

from etude.config.schema import Config
from etude.data.plan import EpochPlan
from etude.errors import EtudeError, MemoryExhaustedError, defects, memory_errors
from etude.hardware import peak_resident_bytes
from etude.runs.manifest import parameters
from etude.runs.saved_run import SavedRun
from etude.training.build import Experiment, build, build_data, factory, warm_start_run
from etude.training.fit import carry_out
from etude.training.from_runs.teacher_run import with_teacher
from etude.training.launch import end_with
from etude.training.preflight.trial import FAILURE, OUTCOME, PLANNED, Outcome, Planned
from etude.training.step_loop import Length
from etude.training.warm_start import load_warm_start

TIMED = 8
"""Steps whose time is measured: one of each of so many equal parts of the plan, sorted by size."""

GPU_SHARE = 0.95
"""Share of a GPU's memory that a rehearsal may take: batches of other shapes leave gaps behind."""


def rehearse(run: SavedRun) -> Outcome:
    """Rehearse a run in this process and in its folder, where `PLANNED` is written before the first step.

    One process takes the slices of all ranks, as micro-batches, one after the other.
    """
    _prepare(run.config)
    machine = run.config.trainer.arguments
    nodes, ranks = machine.get("nodes", 1), machine.get("devices", 1) * machine.get("nodes", 1)
    slices = machine.get("micro_batches", 1) * ranks
    alone = {"devices": 1, "nodes": 1, "strategy": "auto", "micro_batches": slices, "progress_bar": False}
    config = run.config.updated({**{f"trainer.{key}": value for key, value in alone.items()}, "logger": None})
    experiment = with_teacher(build(config))
    load_warm_start(experiment)
    planned = plan_rehearsal(experiment, ranks)
    (run.path / PLANNED).write_text(json.dumps(asdict(planned)), encoding="utf-8")
    timer = StepTimer(TIMED)
    kept = KeptBuffers()
    experiment.callbacks.extend((timer, kept))
    length = _shorten(experiment)
    carry_out(run, experiment, length=length)
    device = timer.device.type
    return Outcome(
        planned,
        # Accelerators work at the same time; processes of one computer share its cores.
        timer.seconds_per_step / (nodes if device == "cpu" else ranks),
        _peak_bytes(timer.device) + (_bytes_to_average(experiment) if ranks > 1 else 0),
        device,
        slices // ranks,
        int(kept.bytes_per_position * planned.tokens_per_step / slices) if device == "cpu" else 0,
    )


def _prepare(config: Config) -> None:
    """Fill the cache of the data in a process of its own: a run whose data is prepared does not take that memory.

    Nothing has been computed here before, so there are no threads of torch that a fork would lose.
    """
    process = multiprocessing.get_context("fork").Process(target=_fill_cache, args=(config,))
    process.start()
    process.join()
    if process.exitcode is not None and process.exitcode < 0:
        raise MemoryExhaustedError(
            f"the preparation of the data was ended by signal {-process.exitcode}; is the machine out of memory?"
        )


def _fill_cache(config: Config) -> None:
    end_with(os.getppid())
    start = warm_start_run(config)
    try:
        build_data(config, factory(config.trainer)(), start.tokenizer if start else None).prepare_data()
    except Exception:
        sys.exit(1)  # the same error is met again, and told, by the process that goes on


def plan_rehearsal(experiment: Experiment, ranks: int) -> Planned:
    """Return what is known of an experiment before its first step.

    Args:
        experiment: The experiment.
        ranks: Number of processes that a step is divided among.
    """
    data, counts = experiment.data, parameters(experiment.task)
    plan = data.plan(0)
    most = int(_rows(plan).max())
    tokens = np.concatenate([np.add.reduceat(part.cost, part.starts[:-1]) for part in plan.parts()])
    first = np.unique(tokens, return_index=True)[1]
    clock = data.clock
    return Planned(
        clock.steps_per_epoch,
        clock.tokens_per_step,
        -(-most // ranks),
        list(data.splits),
        counts["total"],
        counts["trainable"],
        [int(step) + 1 for step in np.sort(first)],
    )


def _shorten(experiment: Experiment) -> Length:
    """Leave only the rehearsed steps and batches of the data, and return the length of their training."""
    data = experiment.data
    plan, sides = data.plan(0), _sides(data.splits["train"].lengths)
    largest = largest_steps(plan, sides)
    # The first step makes the optimizer's state, and the largest is repeated with it in place.
    steps = [*largest, largest[0], *spread_steps(plan, sides, TIMED)]

    def part(split: str, whole: EpochPlan) -> EpochPlan:
        if split == "train":
            return whole.only(steps)
        batches = largest_steps(whole, _sides(data.splits[split].lengths))
        return whole.only(sorted({batches[0], batches[-1]}))

    data.shorten(part)
    return Length(len(steps), None)


def _sides(lengths: Int[np.ndarray, "N ..."]) -> Int[np.ndarray, "N sides"]:
    return lengths.reshape(len(lengths), -1)


def largest_steps(plan: EpochPlan, sides: Int[np.ndarray, "N sides"]) -> list[int]:
    """Return the steps of a plan that may need the most memory, each once.

    These are the step with the most positions, padding included, the one with the longest texts, and the one with the most
    examples, of which a search keeps beams and logits.

    Args:
        plan: The plan.
        sides: [N, sides] real tokens of each side of each example of the split.
    """
    longest = _longest(plan, sides)
    rows = _rows(plan)
    return list(dict.fromkeys(int(np.argmax(size)) for size in (rows * longest, longest, rows)))


def spread_steps(plan: EpochPlan, sides: Int[np.ndarray, "N sides"], count: int) -> list[int]:
    """Return steps whose mean time is that of the plan: the middle ones of equal parts of the plan, sorted by size."""
    by_size = np.argsort(_rows(plan) * _longest(plan, sides), kind="stable")
    places = (np.arange(count) + 0.5) * plan.steps / count
    return [int(step) for step in by_size[places.astype(np.int64)]]


def _longest(plan: EpochPlan, sides: Int[np.ndarray, "N sides"]) -> Int[np.ndarray, " S"]:
    """Return the width of each step: its longest text of each side, summed."""
    widths = [np.maximum.reduceat(sides[part.order], part.starts[:-1], axis=0).sum(axis=1) for part in plan.parts()]
    return np.concatenate(widths)


def _rows(plan: EpochPlan) -> Int[np.ndarray, " S"]:
    """Return the number of examples of each step."""
    return np.concatenate([np.diff(part.starts) for part in plan.parts()])


class StepTimer(Callback):
    """Measures the mean time of the last steps of a training, from the end of one to the end of the next.

    Args:
        steps: Number of those steps.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._ends: list[float] = []
        self.device = torch.device("cpu")

    @property
    def seconds_per_step(self) -> float:
        """The mean time."""
        ends = self._ends[-self._steps - 1 :]
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time, if a step has ended."""
        self.device = pl_module.device
        if trainer.global_step > len(self._ends):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._ends.append(time.perf_counter())


class KeptBuffers(Callback):
    """Finds what oneDNN keeps of the forward pass of the first micro-batch: see `Outcome.peak_after`."""

    def __init__(self) -> None:
        self._watch: _WatchGelu | None = _WatchGelu()
        self._watching = ExitStack()

    bytes_per_position = 0.0
    """Bytes of the outputs of GELU, those of one shape counted once, by the positions of the longest of them."""

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to watch."""
        if self._watch is not None:
            self._watching.enter_context(self._watch)

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: torch.Tensor
    ) -> None:
        """End it."""
        if self._watch is not None:
            self._watching.close()
            shapes, self._watch = self._watch.shapes, None
            positions = max((math.prod(shape[:-1]) for shape in shapes), default=1)
            self.bytes_per_position = sum(math.prod(shape) * size for shape, size in shapes.items()) / positions


class _WatchGelu(TorchFunctionMode):
    """Notes the shapes of the outputs of the exact GELU, which is oneDNN's, and the bytes of their elements."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[tuple[int, ...], int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.gelu and (kwargs or {}).get("approximate", "none") == "none":
            self.shapes[tuple(output.shape)] = output.element_size()
        return output


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def _bytes_to_average(experiment: Experiment) -> int:
    """Return the size of the copy of all gradients that several processes exchange, which one process alone does not have."""
    return sum(
        weight.numel() * weight.element_size() for weight in experiment.task.parameters() if weight.requires_grad
    )


def _end_first() -> None:
    """Ask Linux to end this process before any other when memory runs out (proc_pid_oom_score_adj(5))."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def main(arguments: Sequence[str]) -> int:
    """Rehearse the run in the folder that is given; write its outcome there, or its failure."""
    folder = Path(arguments[0])
    _end_first()
    end_with(os.getppid())
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE)
    try:
        with defects(), memory_errors():
            outcome = rehearse(SavedRun.open(folder))
    except EtudeError as error:
        (folder / FAILURE).write_text(json.dumps([error.exit_code, str(error)]), encoding="utf-8")
        return error.exit_code
    (folder / OUTCOME).write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
