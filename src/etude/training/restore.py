"""Trained models from the folders of their runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from etude.checkpoints.saver import newest_valid, read_weights
from etude.errors import ConfigurationError
from etude.runs.folder import resolve
from etude.runs.stored import stored_configuration, stored_tokenizer
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer
from etude.training.build import build_task
from etude.types import Facts


def find_checkpoint(run: Path, which: str) -> Path:
    """Return a checkpoint's folder: `best` (else the last valid one), `last`, or a step's number.

    Raises:
        ConfigurationError: If there is none.
    """
    folder = run / "checkpoints"
    named = folder / (f"step-{int(which):08d}" if which.isdigit() else which)
    if which != "last" and named.exists():
        return named.resolve()
    last = newest_valid(folder) if which in ("best", "last") else None
    if last is None:
        names = sorted(path.name for path in folder.glob("step-*"))
        if not names:
            raise ConfigurationError(f"{run} has no checkpoint yet; first: etude resume {run}")
        raise ConfigurationError(f"{run} has no checkpoint {which!r}; there are: {', '.join(names)}")
    return last


def load_run(run: Path, values: dict[str, Any] | None = None, which: str = "best") -> tuple[Task, Tokenizer]:
    """Return the task of a run with the weights of a checkpoint, ready to predict, and its tokenizer.

    Args:
        run: The run's folder.
        values: The run's configuration, where it was changed.
        which: `best`, `last` or a step's number.

    Raises:
        ConfigurationError: If there is no such checkpoint.
    """
    checkpoint, values = find_checkpoint(run, which), values or stored_configuration(run)
    task = build_task(values, Facts.from_json(json.loads((run / "facts.json").read_text())), run)
    task.load_state_dict(read_weights(checkpoint))
    device = "cuda" if torch.cuda.is_available() and values["trainer"]["accelerator"] in ("auto", "gpu") else "cpu"
    return task.to(device).eval(), Tokenizer.load(run / "tokenizer")


def load_members(named: Any, run: Path, outputs: Path, which: str = "best") -> dict[Path, Task]:
    """Return the tasks of the runs that `ensemble=[RUN, …]` names, by their folders.

    Args:
        named: A run or a list of runs, as on the command line; None: no ensemble.
        run: The run that they join.
        outputs: Where runs are looked for.
        which: The checkpoint that is taken of each: `best`, `last` or a step's number.

    Raises:
        ConfigurationError: If one is no run, is there twice, or has another vocabulary.
    """
    names = [] if named is None else [named] if isinstance(named, str) else named
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"ensemble={named} names no runs; write ensemble=[RUN,RUN] (command line)")
    members: dict[Path, Task] = {}
    for member in (resolve(name, outputs) for name in names):
        if member.resolve() in (run.resolve(), *(other.resolve() for other in members)):
            raise ConfigurationError(f"ensemble: {member} is in it twice; leave one out (command line)")
        _same_vocabulary(run, member)
        members[member], _ = load_run(member, which=which)
    return members


def _same_vocabulary(run: Path, member: Path) -> None:
    """Refuse a member whose ids mean other tokens: the mean of probabilities of different things is nothing."""
    prints = [stored_tokenizer(folder).fingerprint for folder in (run, member)]
    if prints[0] != prints[1]:
        raise ConfigurationError(
            f"ensemble: {member} has another vocabulary than {run} (tokenizer {prints[1][:12]}, not {prints[0][:12]}); "
            "name runs that were trained with the same tokenizer (command line)"
        )
