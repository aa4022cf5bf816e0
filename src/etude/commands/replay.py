"""`etude replay`: one step of a run repeated, with checks for the first module whose output is not finite."""

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
from etude.runs.saved_run import SavedRun
from etude.training.build import Experiment, build
from etude.training.callbacks.progress_bar import StepProgressBar
from etude.training.from_runs.teacher_run import with_teacher
from etude.training.preflight.trial import micro_batches_of
from etude.training.step_loop import Length, Milestones, StepLoop
from etude.training.trainer import run_context
from etude.training.warm_start import load_warm_start

_log = logging.getLogger(__name__)
_LONGEST_TEXT = 80


def replay(run: SavedRun, *, step: Any = None) -> dict[str, Any]:
    """Repeat the forward and backward pass of one step, with the weights that the run had before it.

    The weights are restored from the newest checkpoint before the step, or are the initial ones, and are trained forward
    to the step outside of the run's folder, in one process and without validations, which do not affect weights. They equal
    the run's bit for bit if it was trained by one process on an unchanged machine; otherwise they differ by rounding and,
    where slices have changed, by dropout.

    Args:
        run: The run. Nothing is written into its folder.
        step: Number of the step, from 1.

    Returns:
        The loss, the gradient norm, the first module with a non-finite output, the message of the backward pass, and the
        loss of each example on its own, without dropout. Non-finite numbers are strings, as JSON cannot represent them.

    Raises:
        ConfigurationError: If `step` is missing or invalid.
    """
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise ConfigurationError(f"step={step}: etude replay needs the number of a step, from 1; write step=17")
    run.require_training()
    experiment, ranks = experiment_in_one_process(run, step - 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer, weights_of = train_forward(run, experiment, step - 1, ranks, Path(folder))
        task = experiment.task.to(trainer.strategy.root_device)
        task.train()
        with _non_finite_modules(task) as modules:
            loss, norm, backward = _forward_and_backward(experiment, trainer, step)
        replayed = {
            "step": step,
            "weights_of_step": weights_of,
            "loss": _number(loss),
            "gradient_norm": _number(norm),
            "first_non_finite": modules[0] if modules else None,
            "backward": backward,
            "examples": _examples(experiment, trainer, step),
        }
    _log_findings(replayed)
    return replayed


def experiment_in_one_process(run: SavedRun, until: int) -> tuple[Experiment, int]:
    """Return a run's experiment for a single process that does the work of all ranks, and the number of ranks.

    Args:
        run: The run.
        until: The step whose weights will be restored.
    """
    machine = run.config.trainer.arguments
    ranks = machine.get("devices", 1) * machine.get("nodes", 1)
    config = run.config.updated(
        {
            "trainer.devices": 1,
            "trainer.nodes": 1,
            "trainer.strategy": "auto",
            "trainer.micro_batches": micro_batches_of(run) * ranks,
            "trainer.workers": 0,
        }
    )
    _, checkpoint = _newest(run.checkpoints, until)
    return with_teacher(build(config, run.tokenizer, None if checkpoint is None else run)), ranks


class _Recount(Callback):
    """Converts the loop state of a checkpoint to this process's number of micro-batches."""

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        recount(checkpoint, trainer.accumulate_grad_batches)


def train_forward(
    run: SavedRun, experiment: Experiment, until: int, ranks: int, folder: Path
) -> tuple[lightning.Trainer, int]:
    """Load the weights that the run had after a step into the task.

    Returns:
        The trainer, and the step of the weights, which is an earlier one if learning rates follow the wall clock and so
        cannot be repeated.
    """
    config, data, task, machine = experiment.config, experiment.data, experiment.task, experiment.machine
    task.run_context = run_context(config, data.clock, machine.slices, run.path, ranks)
    saved, checkpoint = _newest(run.checkpoints, until)
    if task.run_context.in_seconds and saved < until:
        _log.warning("budget=%s: rates follow the clock, so the weights of step %d cannot be had", config.budget, until)
        until = saved
    if checkpoint is None:
        load_warm_start(experiment)
    trainer = experiment.trainer(
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
    """Return the step and path of the newest valid checkpoint up to a step; 0 and None if there is none."""
    for saved, path in reversed(checkpoints(folder).items()):
        if saved <= until and not verify(path):
            return saved, path
    return 0, None


@contextmanager
def _non_finite_modules(module: nn.Module) -> Iterator[list[str]]:
    """Yield a list to which modules with non-finite outputs are appended in the order of computation."""
    names: list[str] = []

    def watch(name: str, inner: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
                names.append(f"{name} ({type(inner).__name__})")

        return inner.register_forward_hook(hook)

    handles = [watch(name, inner) for name, inner in module.named_modules() if name]
    try:
        yield names
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
    """Return the step's loss, its gradient norm, and the message of anomaly detection in the backward pass, if any."""
    task, data, machine = experiment.task, experiment.data, experiment.machine
    epoch, within = divmod(step - 1, data.clock.steps_per_epoch)
    sampler = PlanSampler(data.plan, rank=0, world=1, micro_batches=machine.slices)
    sampler.epoch, sampler.step = epoch, within
    total, anomaly = 0.0, None
    task.zero_grad()
    for micro_batch, part in zip(range(machine.slices), sampler, strict=False):
        batch = trainer.strategy.batch_to_device(data.splits["train"].batch(part))
        task.seed_randomness(epoch, within * machine.slices + micro_batch)
        with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the traceback of the forward pass
            with trainer.precision_plugin.forward_context():
                loss = task.training_loss(batch)[0] / batch.step_count
            total += float(loss)
            try:
                loss.backward()
            except RuntimeError as error:
                anomaly = anomaly or str(error).partition("\n")[0]
    gradients = [
        parameter.grad.norm()
        for name, parameter in task.named_parameters()
        if parameter.grad is not None
        and task.parameter_schedules.get(name, FROM_THE_START).started(step - 1, data.clock)
    ]
    norm = float(torch.stack(gradients).norm()) if gradients and anomaly is None else math.nan
    return total, norm, anomaly


def _examples(experiment: Experiment, trainer: lightning.Trainer, step: int) -> list[dict[str, Any]]:
    """Return id, loss and text of each example of the step, by descending loss, non-finite ones first."""
    task, data = experiment.task.eval(), experiment.data
    epoch = (step - 1) // data.clock.steps_per_epoch
    fields = data.fields("train")
    examples = []
    for example in data.examples_of(step):
        part = Slice(np.array([example]), epoch, 1, filler=False)
        batch = trainer.strategy.batch_to_device(data.splits["train"].batch(part))
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            loss_sum, count = task.loss(batch)
        loss = float(loss_sum) / max(1, int(count))
        examples.append((loss, {"id": example, "loss": _number(loss), **_texts(experiment, fields, example, epoch)}))
    ordered = sorted(examples, key=lambda pair: (math.isfinite(pair[0]), -pair[0]))
    return [row for _, row in ordered]


def _texts(experiment: Experiment, fields: list[str], example: int, epoch: int) -> dict[str, str]:
    return {field: experiment.data.text("train", field, example, epoch) for field in fields}


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _log_findings(replayed: Mapping[str, Any]) -> None:
    """Log the step's numbers, its examples and the verdict."""
    _log.info(
        "step %(step)d with the weights of step %(weights_of_step)d: loss %(loss)s, gradient norm %(gradient_norm)s",
        replayed,
    )
    for row in replayed["examples"]:
        text = " | ".join(value for key, value in row.items() if key not in ("id", "loss"))
        _log.info(
            "  %7d  %10s  %s",
            row["id"],
            f"{row['loss']:.4g}" if isinstance(row["loss"], float) else row["loss"],
            text[:_LONGEST_TEXT],
        )
    _log.info("%s", _verdict(replayed))


def _verdict(replayed: Mapping[str, Any]) -> str:
    if replayed["first_non_finite"] is not None:
        return f"the first output that is not finite: {replayed['first_non_finite']}"
    if isinstance(replayed["loss"], str):
        return "all outputs of modules are finite, the loss that is made of them is not"
    if replayed["backward"] is not None:
        return f"all outputs are finite; the backward pass: {replayed['backward']}"
    if isinstance(replayed["gradient_norm"], str):
        return "all outputs are finite, the gradient is not"
    return f"everything is finite: the step does no harm to the weights of step {replayed['weights_of_step']}"
