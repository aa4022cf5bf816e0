"""One step of a run, done again under a magnifying glass: which module first gave a number that is not finite, and for what."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from etude.data.loader import PlanSampler, Slice
from etude.errors import ConfigurationError
from etude.experiment.build import Experiment, build
from etude.experiment.stored import stored_configuration
from etude.optim.course import FROM_THE_START
from etude.seeding import seed_micro_batch
from etude.store.integrity import checkpoints, verify
from etude.store.saver import read_weights
from etude.tokenization.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
_LONGEST_TEXT = 80


def replay(run: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Do the forward and backward pass of one step again, with the newest weights saved before it.

    Nothing is trained: where the last checkpoint is some steps older, so are the weights. The batch, its slices and the
    seeds are those of the step.

    Args:
        run: The run's folder.
        overrides: `step`: which step, from 1.

    Returns:
        The loss, the gradient's norm, the first module with an output that is not finite, what the backward pass said, and
        the loss of each example alone, without dropout. Numbers that are not finite are text: JSON has no word for them.

    Raises:
        ConfigurationError: If `step` is missing or no step of a run, or something else is given.
    """
    step = _step(overrides)
    experiment = build(stored_configuration(run), Tokenizer.load(run / "tokenizer"))
    weights_of = _load_weights(run, experiment, step)
    machine = dataclasses.replace(experiment.machine, devices=1, nodes=1, strategy="auto")
    trainer = machine.trainer(run, enable_progress_bar=False)
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


def _load_weights(run: Path, experiment: Experiment, step: int) -> int:
    """Give the task the newest weights of before the step; return after which step they were saved, 0 for the first ones."""
    for saved, folder in reversed(checkpoints(run / "checkpoints").items()):
        if saved < step and not verify(folder):
            experiment.task.load_state_dict(read_weights(folder))
            return saved
    return 0


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
    total, said = 0.0, None
    task.zero_grad()
    for rank in range(machine.world):
        sampler = PlanSampler(data.plan, rank=rank, world=machine.world, micro_batches=machine.micro_batches)
        sampler.epoch, sampler.step = epoch, within
        for micro_batch, part in zip(range(machine.micro_batches), sampler, strict=False):
            batch = trainer.strategy.batch_to_device(data.splits["train"].batch(part))
            seed_micro_batch(data.seed, epoch, within * machine.micro_batches + micro_batch, rank)
            with warnings.catch_warnings(), torch.autograd.detect_anomaly():
                warnings.simplefilter("ignore")  # says that it is slow, and where the forward pass was
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
        found.append((loss, {"id": example, "loss": _number(loss), **_texts(experiment, fields, example)}))
    ordered = sorted(found, key=lambda pair: (math.isfinite(pair[0]), -pair[0]))
    return [row for _, row in ordered]


def _texts(experiment: Experiment, fields: list[str], example: int) -> dict[str, str]:
    return {field: experiment.data.text("train", field, example) for field in fields}


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
    if found["first_non_finite"] is not None:
        _log.info("the first output that is not finite: %s", found["first_non_finite"])
    elif found["backward"] is not None:
        _log.info("all outputs are finite; the backward pass: %s", found["backward"])
    else:
        _log.info(
            "everything is finite: these examples do no harm to the weights of step %d, the updates since then did",
            found["weights_of_step"],
        )
