"""What two runs differ in: what they are made of, and the first things that they computed otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.checkpoints.checkpoint import read_tensors
from etude.checkpoints.codec import MODEL, TRAINING
from etude.checkpoints.integrity import checkpoint_folder
from etude.checkpoints.integrity import read_manifest as read_checkpoint_manifest
from etude.errors import StorageError
from etude.runs.folder import CHECKPOINTS, FINISHED, MADE_OF, changes
from etude.runs.record import RECORD, comparable, read

SECTIONS = {
    "code": ("code",),
    "packages": ("python", "packages"),
    "hardware": ("platform", "processor", "accelerators", "precision"),
    "settings": ("torch", "environment"),
    "data": ("data", "first_weights"),
}
"""What a manifest says, by what a person would call it. Weights that training begins with are data: they may be pretrained."""

MACHINERY = ("code", "packages", "hardware", "settings")
"""The sections that may change while a run is continued."""


def read_manifest(run: Path) -> dict[str, Any]:
    """Return what a run's manifest says it is made of.

    Raises:
        StorageError: If it is missing or broken.
    """
    return _read_mapping(run / MADE_OF)


def section(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a manifest says in one of `SECTIONS`; what has the section's own name is not named twice."""
    said: dict[str, Any] = {}
    for key in SECTIONS[name]:
        value = manifest.get(key)
        said |= value if key == name and isinstance(value, Mapping) else {key: value}
    return {key: value for key, value in said.items() if value != {}}


def drift(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what differs between two manifests: for each of `SECTIONS` the changes by key, as `'2.12' -> '2.13'`."""
    return {name: changes(section(before, name), section(now, name)) for name in SECTIONS}


def first_line(before: Path, now: Path) -> dict[str, Any] | None:
    """Return the first line in which the records of two runs differ, wall-clock values apart; None if they are equal.

    Returns:
        `line`, from 1, `step`, and for every name that differs both values; None in the place of one that is not there.

    Raises:
        StorageError: If a record cannot be read, or is damaged.
    """
    lines = [[_numbers(line) for line in map(comparable, read(run / RECORD))] for run in (before, now)]
    for number in range(1, max(map(len, lines)) + 1):
        old, new = (of_run[number - 1] if number <= len(of_run) else {} for of_run in lines)
        values = _both(old, new)
        if values:
            return {"line": number, "step": (old or new)["step"], "values": values}
    return None


def _numbers(line: str) -> dict[str, Any]:
    """Return the numbers of a record's line by their names; those that are not finite are text."""
    content = json.loads(line)
    return {"step": content["step"], "tokens": content["tokens"], **content["values"]}


def _both(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what differs, by name. As text: 0.0 differs from -0.0, and nan equals nan."""
    pairs = {name: [old.get(name), new.get(name)] for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}


def first_tensor(before: Path, now: Path) -> dict[str, Any] | None:
    """Return the first tensor that differs between two checkpoints, those of the model first; None if all are equal.

    Args:
        before: A checkpoint's folder.
        now: That of the other one.

    Returns:
        `file`, `tensor`, and `largest_difference`: of its elements, absolute; None where shapes or types differ.

    Raises:
        CheckpointBrokenError: If one of them is not what was written.
    """
    for stem in (MODEL, TRAINING):
        file = f"{stem}.safetensors"
        written = [read_checkpoint_manifest(folder).files[file] for folder in (before, now)]
        if written[0] == written[1]:
            continue
        old, new = (read_tensors(folder, stem) for folder in (before, now))
        for name in {**old, **new}:
            if name not in old or name not in new:
                return {"file": file, "tensor": name, "only_in": str(before if name in old else now)}
            if not _same_bits(old[name], new[name]):
                return {"file": file, "tensor": name, "largest_difference": _largest_difference(old[name], new[name])}
    return None


def _same_bits(old: Tensor, new: Tensor) -> bool:
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (old, new))
    return torch.equal(first, second)


def _largest_difference(old: Tensor, new: Tensor) -> float | str | None:
    if old.shape != new.shape or old.dtype != new.dtype:
        return None
    return _finite(float((old.double() - new.double()).abs().max()))


def changed_scores(before: Path, now: Path) -> dict[str, list[Any]]:
    """Return the scores in which two finished runs differ, by name; None in the place of one that is not there.

    Raises:
        StorageError: If what a run ended with is missing or broken.
    """
    old, new = (_read_mapping(run / FINISHED)["scores"] for run in (before, now))
    return {name: [*map(_finite, pair)] for name, pair in _both(old, new).items()}


def last_checkpoint(run: Path) -> Path:
    """Return the folder of the checkpoint that a finished run ended with.

    Raises:
        StorageError: If what the run ended with is missing or broken.
    """
    return checkpoint_folder(run / CHECKPOINTS, _read_mapping(run / FINISHED)["step"])


def _finite(value: Any) -> Any:
    """Return a number; text if JSON has no word for it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"{path} cannot be read: {reason}; put the file back from a copy of the run") from error
    return found
