"""Trained tasks from the folders of their runs, alone or as members of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from etude.checkpoints.checkpoint import read_weights
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.hardware import usable_cores
from etude.runs.folder import resolve
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.training.build import build_task, factory
from etude.training.machine import Machine


def load_run(run: SavedRun, config: Config | None = None, checkpoint: str = "best") -> Task:
    """Return the task of a run with the weights of a checkpoint, ready to predict with `trainer.threads`.

    Args:
        run: The run.
        config: The run's configuration with changes; None: as stored.
        checkpoint: `best`, `last` or a step's number.

    Raises:
        ConfigurationError: If the checkpoint does not exist.
    """
    folder, config = run.checkpoint(checkpoint), config or run.config
    task = build_task(config, run.facts, run)
    task.load_state_dict(read_weights(folder))
    machine: Machine = factory(config.trainer)()
    if machine.threads is not None:
        torch.set_num_threads(min(machine.threads, usable_cores()))  # the run's own machine may have had more
    device = "cuda" if torch.cuda.is_available() and machine.accelerator in ("auto", "gpu") else "cpu"
    return task.to(device).eval()


def load_members(names: Any, run: SavedRun, checkpoint: str = "best") -> dict[Path, Task]:
    """Return the tasks of the runs that `ensemble=[RUN, …]` names, by their folders.

    Args:
        names: A run or a list of runs, as on the command line; None: no ensemble.
        run: The run that they join; its `paths.outputs` is where runs are looked up.
        checkpoint: The checkpoint of each member: `best`, `last` or a step's number.

    Raises:
        ConfigurationError: If a member does not exist, is listed twice, or has another vocabulary.
    """
    listed = [] if names is None else [names] if isinstance(names, str) else names
    if not isinstance(listed, Sequence) or not all(isinstance(name, str) for name in listed):
        raise ConfigurationError(f"ensemble={names} names no runs; write ensemble=[RUN,RUN] (command line)")
    members: dict[Path, Task] = {}
    for path in (resolve(name, run.config.paths.outputs) for name in listed):
        if path.resolve() in (run.path.resolve(), *(other.resolve() for other in members)):
            raise ConfigurationError(f"ensemble: {path} is in it twice; leave one out (command line)")
        member = SavedRun.open(path)
        _check_vocabulary(run, member)
        members[path] = load_run(member, checkpoint=checkpoint)
    return members


def _check_vocabulary(run: SavedRun, member: SavedRun) -> None:
    """Refuse a member with another vocabulary: a mean over probabilities of different tokens is meaningless."""
    own, other = run.tokenizer.fingerprint, member.tokenizer.fingerprint
    if own != other:
        raise ConfigurationError(
            f"ensemble: {member.path} has another vocabulary than {run.path} (tokenizer {other[:12]}, not "
            f"{own[:12]}); name runs that were trained with the same tokenizer (command line)"
        )


def in_one_process(config: Config, requested: Mapping[str, Any]) -> Config:
    """Return a run's configuration for a command that works in one process, whatever machine trained the run.

    Args:
        config: The run's configuration with the requested changes.
        requested: Dotted keys and values that the command was given.

    Raises:
        ConfigurationError: If several processes are requested.
    """
    for key in ("trainer.devices", "trainer.nodes"):
        if requested.get(key, 1) != 1:
            raise ConfigurationError(
                f"{key}={requested[key]}: this command works in one process; leave it out (command line)"
            )
    machine: dict[str, Any] = {"trainer.devices": 1, "trainer.nodes": 1, "trainer.strategy": "auto"}
    accelerator = config.trainer.arguments.get("accelerator", "auto")
    if "trainer" not in requested and "trainer.accelerator" not in requested and accelerator != "cpu":
        machine["trainer.accelerator"] = "auto"
    return config.updated(machine)
