"""A run that starts from another one: with its model, its weights and its tokenizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch import Tensor

from etude.checkpoints.integrity import read_manifest
from etude.checkpoints.saver import read_weights
from etude.config.check import check
from etude.errors import ConfigurationError
from etude.optim.finetune.lora import ADAPTERS
from etude.runs.folder import MADE_OF, resolve
from etude.runs.stored import stored_configuration
from etude.tasks.base import Task
from etude.training.build import Experiment
from etude.training.restore import find_checkpoint

MODEL = "model."
SECOND_TEXT = ".segments.weight"
NEW = (*ADAPTERS, SECOND_TEXT)
"""Ends of the names of what a model may have that it did not start with: adapters, and vectors for a second text."""

_log = logging.getLogger(__name__)


def with_its_model(values: dict[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a configuration with model and tokenizer of the run that it starts from; as it is, where it names none.

    Args:
        values: The checked configuration as plain values.
        overrides: What was written on the command line: `model.dropout=0.2` is said of the run's model.

    Raises:
        ConfigurationError: If there is no such run, another model or tokenizer was asked for, or the rest does not fit.
    """
    if values.get("start") is None:
        return values
    run = resolve(str(values["start"]), Path(values["paths"]["outputs"]).expanduser())
    keys = [word.lstrip("+").partition("=")[0] for word in overrides]
    for key in keys:
        if key in ("model", "tokenizer") or key.startswith(("model/", "tokenizer.")):
            raise ConfigurationError(f"start={values['start']} brings its own {key}; leave that out (command line)")
    stored = stored_configuration(run)
    changed = OmegaConf.create({"model": stored["model"]})
    for key in keys:
        if key.startswith(MODEL):
            OmegaConf.update(changed, key, OmegaConf.select(OmegaConf.create(values), key), force_add=True)
    model = cast(dict[str, Any], OmegaConf.to_container(changed))
    found = {**values, **model, "tokenizer": stored["tokenizer"], "start": str(run)}
    check(OmegaConf.create(found), overrides)
    return found


def load_start(experiment: Experiment) -> None:
    """Give the task the weights of the best checkpoint of the run that it starts from.

    All of the model's are taken; the rest of the task's, its head, where that run had the same task and shapes. Vectors
    for a second text that the run did not have are zero, so that a text alone is read as before.

    Raises:
        ConfigurationError: If there is no such checkpoint, or its model has other tensors.
    """
    run, task = _start(experiment), experiment.task
    checkpoint = find_checkpoint(run, "best")
    weights = read_weights(checkpoint)
    _check_same(run, task, weights)
    same_task = stored_configuration(run)["task"]["_target_"] == f"{type(task).__module__}.{type(task).__qualname__}"
    own = task.state_dict()
    taken = {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith(MODEL) or (same_task and name in own and own[name].shape == tensor.shape)
    }
    task.load_state_dict(taken, strict=False)
    new = sorted(own.keys() - taken.keys())
    with torch.no_grad():
        for name in (name for name in new if name.endswith(SECOND_TEXT)):
            own[name].zero_()
    _log.info("starts from %s of %s; new: %s", checkpoint.name, run, ", ".join(new) or "nothing")


def started_from(experiment: Experiment) -> dict[str, Any]:
    """Return which run and weights a run starts from, and what that one started from, as the manifest says it."""
    run = _start(experiment)
    checkpoint = find_checkpoint(run, "best")
    before = json.loads((run / MADE_OF).read_text())
    weights = read_manifest(checkpoint).files["model.safetensors"].sha256
    return {"run": str(run), "checkpoint": checkpoint.name, "weights": weights, "start": before.get("start")}


def _start(experiment: Experiment) -> Path:
    return resolve(str(experiment.root.start), experiment.root.paths.outputs)


def _check_same(run: Path, task: Task, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of the task's model: what is in `NEW` may be new."""
    own = {name: tensor.shape for name, tensor in task.state_dict().items() if name.startswith(MODEL)}
    theirs = {name: tensor.shape for name, tensor in weights.items() if name.startswith(MODEL)}
    differing = {
        name: f"{tuple(theirs[name]) if name in theirs else 'absent'}, not {tuple(own[name]) if name in own else 'there'}"
        for name in own.keys() | theirs.keys()
        if own.get(name) != theirs.get(name) and not (name not in theirs and name.endswith(NEW))
    }
    if differing:
        name = min(differing)
        raise ConfigurationError(
            f"start={run} has {len(differing)} tensors that are not the model's, such as {name} ({differing[name]}); "
            "leave out what changes the model; of a run with adapters, start from its export"
        )
