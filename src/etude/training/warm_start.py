"""Warm start: a run that begins with the model, the weights and the tokenizer of another run (`start=RUN`)."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from etude.checkpoints import codec
from etude.checkpoints.checkpoint import read_weights
from etude.checkpoints.integrity import read_manifest, tensor_files
from etude.config.check import checked
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.optim.finetune.lora import ADAPTERS
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.training.build import Experiment, warm_start_run

MODEL = "model."
SEGMENTS = ".segments.weight"
NEW = (*ADAPTERS, SEGMENTS)
"""Ends of the names of tensors that a model may have beyond those of its warm start: adapters and segment embeddings."""

_log = logging.getLogger(__name__)


def with_warm_start(config: Config) -> Config:
    """Return a configuration with the model and tokenizer of its warm start; unchanged without one.

    Keys of the model on the command line, such as `model.dropout=0.2`, change the stored model.

    Raises:
        ConfigurationError: If the run does not exist, the command line chooses another model or tokenizer, or the
            configurations do not fit together.
    """
    run = warm_start_run(config)
    if run is None:
        return config
    keys = [word.lstrip("+~").partition("=")[0] for word in config.overrides]
    for key in keys:
        if key in ("model", "tokenizer") or key.startswith(("model/", "tokenizer.")):
            raise ConfigurationError(f"start={config.start} brings its own {key}; leave that out (command line)")
    composed = OmegaConf.create(copy.deepcopy(dict(config.values)))
    merged = cast(DictConfig, OmegaConf.merge(composed, {"start": str(run.path)}))
    for name in ("model", "tokenizer"):
        merged[name] = copy.deepcopy(dict(run.config.values[name]))
    for key in keys:
        if key.startswith(MODEL):
            _take(merged, composed, key)
    return checked(merged, config.overrides)


def _take(merged: DictConfig, composed: DictConfig, key: str) -> None:
    """Give a key the value that the command line gave it, or leave it out as the command line did."""
    parent, _, name = key.rpartition(".")
    if name in (OmegaConf.select(composed, parent) or {}):
        OmegaConf.update(merged, key, OmegaConf.select(composed, key), force_add=True)
    elif name in (OmegaConf.select(merged, parent) or {}):
        del OmegaConf.select(merged, parent)[name]


def load_warm_start(experiment: Experiment) -> None:
    """Load the weights of the best checkpoint of the warm start into the task; without a warm start, do nothing.

    All weights of the model are loaded, and those of the task's head where both tasks are the same and the shapes agree.
    New segment embeddings are set to zero, so that a single text is encoded as before.

    Raises:
        ConfigurationError: If the run has no checkpoint, or its model has other tensors.
    """
    run, task = experiment.warm_start, experiment.task
    if run is None:
        return
    checkpoint = run.checkpoint("best")
    weights = read_weights(checkpoint)
    _check_tensors(run.path, task, weights)
    same_task = run.config.task.target == experiment.config.task.target
    own = task.state_dict()
    loaded = {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith(MODEL) or (same_task and name in own and own[name].shape == tensor.shape)
    }
    task.load_state_dict(loaded, strict=False)
    new = sorted(own.keys() - loaded.keys())
    with torch.no_grad():
        for name in (name for name in new if name.endswith(SEGMENTS)):
            own[name].zero_()
    _log.info("starts from %s of %s; new: %s", checkpoint.name, run.path, ", ".join(new) or "nothing")


def describe_warm_start(run: SavedRun) -> dict[str, Any]:
    """Return run, checkpoint and weights of a warm start for the manifest, and the warm start of that run in turn."""
    return describe_source(run, run.checkpoint("best"))


def describe_source(run: SavedRun, checkpoint: Path) -> dict[str, Any]:
    """Return a run, its checkpoint, the hash of the weights and the warm start of the run, as manifests name their sources."""
    files = read_manifest(checkpoint).files
    hashes = [files[name].sha256 for name in tensor_files(codec.MODEL, files)]
    return {
        "run": str(run.path),
        "checkpoint": checkpoint.name,
        "weights": hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "start": run.manifest.start.plain() if run.manifest.start else None,
    }


def _check_tensors(run: Path, task: Task, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not those of the task's model; tensors in `NEW` may be missing."""
    expected = {name: tensor.shape for name, tensor in task.state_dict().items() if name.startswith(MODEL)}
    stored = {name: tensor.shape for name, tensor in weights.items() if name.startswith(MODEL)}
    differing = {
        name: f"{tuple(stored[name]) if name in stored else 'absent'}, "
        f"not {tuple(expected[name]) if name in expected else 'there'}"
        for name in expected.keys() | stored.keys()
        if expected.get(name) != stored.get(name) and not (name not in stored and name.endswith(NEW))
    }
    if differing:
        name = min(differing)
        raise ConfigurationError(
            f"start={run} has {len(differing)} tensors that are not the model's, such as {name} ({differing[name]}); "
            "leave out what changes the model; of a run with adapters, start from its export"
        )
