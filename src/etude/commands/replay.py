"""One step of a run, done again under a magnifying glass: which module first gave a number that is not finite, and for what."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from etude.checkpoints.integrity import checkpoints, verify
from etude.checkpoints.loop_state import recount
from etude.checkpoints.saver import FolderCheckpointIO
from etude.data.loader import PlanSampler, Slice
from etude.errors import ConfigurationError
from etude.optim.parameter_schedule import FROM_THE_START
from etude.runs.folder import CHECKPOINTS
from etude.runs.stored import stored_configuration, stored_tokenizer
from etude.training.build import Experiment, build
from etude.training.callbacks.progress_bar import StepProgressBar
from etude.training.run_settings import timetable
from etude.training.step_loop import Length, Milestones, StepLoop
from etude.training.warm_start import load_start

_log = logging.getLogger(__name__)
_LONGEST_TEXT = 80


def replay(run: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Do the forward and backward pass of one step again, with the weights that the run had before it.

    These are those of a checkpoint, or the first ones, trained forward to the step before as the run did: outside of its
    folder, in one process and without validations, which leave no trace in weights. They are the run's bit for bit, if it
    was trained by one process and its machine was not changed since; else but for rounding and, where slices have changed,
    dropout.

    Args:
        run: The run's folder. Nothing is written into it.
        overrides: `step`: which step, from 1.

    Returns:
        The loss, the gradient's norm, the first module with an output that is not finite, what the backward pass said, and
        the loss of each example alone, without dropout. Numbers that are not finite are text: JSON has no word for them.

    Raises:
        ConfigurationError: If `step` is missing or no step of a run, or something else is given.
    """
    step = _step(overrides)
    experiment, ranks = in_one_process(run, step - 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer, weights_of = train_forward(run, experiment, step - 1, ranks, Path(folder))
        task = experiment.task.to(trainer.strategy.root_device)
        task.train()
        with _watched(task) as culprits:
            loss, norm, backward = _forward_and_backward(experiment, trainer, step)
        found = {
            "step": step,
            "weights_of_step": weights_of,
            "loss": _number(loss),
            "gradient_norm": _number(norm),
            "first_non_finite": culprits[0] if culprits else None,
            "backward": backward,
            "examples": _examples(experiment, trainer, step),
        }
    _tell(found)
    return found


def _step(overrides: Mapping[str, Any]) -> int:
    others = [key for key in overrides if key not in ("step", "paths.outputs")]
    if others:
        raise ConfigurationError(f"etude replay takes step=N, not {others[0]}={overrides[others[0]]} (command line)")
    step = overrides.get("step")
    if not isinstance(step, int) or step < 1:
        raise ConfigurationError(f"step={step}: etude replay needs the number of a step, from 1; write step=17")
    return step


def in_one_process(run: Path, until: int) -> tuple[Experiment, int]:
    """Return a run's experiment for one process that does the work of all its ranks, and how many these are.

    Args:
        run: The run's folder.
        until: The step after which its weights are wanted.
    """
    values = stored_configuration(run)
    machine = values["trainer"]
    ranks = machine.get("devices", 1) * machine.get("nodes", 1)
    micro_batches = machine.get("micro_batches", 1) * ranks
    machine.update(devices=1, nodes=1, strategy="auto", micro_batches=micro_batches, workers=0)
    _, checkpoint = _newest(run / CHECKPOINTS, until)
    return build(values, stored_tokenizer(run), None if checkpoint is None else run), ranks


class _Recount(Callback):
    """Has a checkpoint count in this process' micro-batches."""

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        recount(checkpoint, trainer.accumulate_grad_batches)


def train_forward(
    run: Path, experiment: Experiment, until: int, ranks: int, folder: Path
) -> tuple[lightning.Trainer, int]:
    """Give the task the weights that the run had after a step.

    Returns:
        The trainer that did it, and after which step the weights are: an earlier one, if learning rates follow the wall
        clock, so that nobody can repeat them.
    """
    root, data, task, machine = experiment.root, experiment.data, experiment.task, experiment.machine
    task.timetable = timetable(root, data.clock, machine.micro_batches, run, ranks)
    saved, checkpoint = _newest(run / CHECKPOINTS, until)
    if task.timetable.in_seconds and saved < until:
        _log.warning("budget=%s: rates follow the clock, so the weights of step %d cannot be had", root.budget, until)
        until = saved
    if checkpoint is None and root.start is not None:
        load_start(experiment)
    trainer = machine.trainer(
        folder,
        callbacks=[*experiment.callbacks, _Recount(), *([StepProgressBar()] if machine.progress_bar else [])],
        plugins=[FolderCheckpointIO()],
        max_epochs=-1,
        limit_val_batches=0,
        enable_progress_bar=machine.progress_bar,
    )
    if until:
        _log.info("the weights of step %d: from step %d, trained forward", until, saved)
        StepLoop.install(trainer, Milestones(Length(until, None), Length(until, None), task.seconds))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return trainer, until


def _newest(folder: Path, until: int) -> tuple[int, Path | None]:
    """Return the newest valid checkpoint up to a step and its step; 0 and None, if there is none."""
    for saved, path in reversed(checkpoints(folder).items()):
        if saved <= until and not verify(path):
            return saved, path
    return 0, None


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[str]]:
    """Yield a list that fills with the modules whose outputs are not finite, in the order of the computation."""
    culprits: list[str] = []

    def watch(name: str, inner: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
                culprits.append(f"{name} ({type(inner).__name__})")

        return inner.register_forward_hook(hook)

    handles = [watch(name, inner) for name, inner in module.named_modules() if name]
    try:
        yield culprits
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, tuple | list):
        for inner in output:
            yield from _tensors(inner)


def _forward_and_backward(
    experiment: Experiment, trainer: lightning.Trainer, step: int
) -> tuple[float, float, str | None]:
    """Return the step's loss, its gradient's norm, and what anomaly detection said of the backward pass."""
    task, data, machine = experiment.task, experiment.data, experiment.machine
    epoch, within = divmod(step - 1, data.clock.steps_per_epoch)
    sampler = PlanSampler(data.plan, rank=0, world=1, micro_batches=machine.micro_batches)
    sampler.epoch, sampler.step = epoch, within
    total, said = 0.0, None
    task.zero_grad()
    for micro_batch, part in zip(range(machine.micro_batches), sampler, strict=False):
        batch = trainer.strategy.batch_to_device(data.splits["train"].batch(part))
        task.seed_randomness(epoch, within * machine.micro_batches + micro_batch)
        with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says where the forward pass was
            with trainer.precision_plugin.forward_context():
                loss = task.loss(batch)[0] / batch.step_count
            total += float(loss)
            try:
                loss.backward()
            except RuntimeError as error:
                said = said or str(error).partition("\n")[0]
    gradients = [
        parameter.grad.norm()
        for name, parameter in task.named_parameters()
        if parameter.grad is not None and task.courses.get(name, FROM_THE_START).started(step - 1, data.clock)
    ]
    norm = float(torch.stack(gradients).norm()) if gradients and said is None else math.nan
    return total, norm, said


def _examples(experiment: Experiment, trainer: lightning.Trainer, step: int) -> list[dict[str, Any]]:
    """Return id, loss and text of each example of the step, those of the highest loss first."""
    task, data = experiment.task.eval(), experiment.data
    epoch = (step - 1) // data.clock.steps_per_epoch
    fields = list(data.prepared.splits["train"].texts)
    found = []
    for example in data.examples_of(step):
        part = Slice(np.array([example]), epoch, 1, filler=False)
        batch = trainer.strategy.batch_to_device(data.splits["train"].batch(part))
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            loss_sum, count = task.loss(batch)
        loss = float(loss_sum) / max(1, int(count))
        found.append((loss, {"id": example, "loss": _number(loss), **_texts(experiment, fields, example, epoch)}))
    ordered = sorted(found, key=lambda pair: (math.isfinite(pair[0]), -pair[0]))
    return [row for _, row in ordered]


def _texts(experiment: Experiment, fields: list[str], example: int, epoch: int) -> dict[str, str]:
    return {field: experiment.data.text("train", field, example, epoch) for field in fields}


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _tell(found: Mapping[str, Any]) -> None:
    """Say for people what was found."""
    _log.info(
        "step %(step)d with the weights of step %(weights_of_step)d: loss %(loss)s, gradient norm %(gradient_norm)s",
        found,
    )
    for row in found["examples"]:
        text = " | ".join(value for key, value in row.items() if key not in ("id", "loss"))
        _log.info(
            "  %7d  %10s  %s",
            row["id"],
            f"{row['loss']:.4g}" if isinstance(row["loss"], float) else row["loss"],
            text[:_LONGEST_TEXT],
        )
    _log.info("%s", _verdict(found))


def _verdict(found: Mapping[str, Any]) -> str:
    if found["first_non_finite"] is not None:
        return f"the first output that is not finite: {found['first_non_finite']}"
    if isinstance(found["loss"], str):
        return "all outputs of modules are finite, the loss that is made of them is not"
    if found["backward"] is not None:
        return f"all outputs are finite; the backward pass: {found['backward']}"
    if isinstance(found["gradient_norm"], str):
        return "all outputs are finite, the gradient is not"
    return f"everything is finite: the step does no harm to the weights of step {found['weights_of_step']}"
