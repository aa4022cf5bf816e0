"""The first difference between the results of two runs: in their records, in their checkpoints, in their scores."""

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
from etude.checkpoints.integrity import checkpoint_folder, tensor_files
from etude.checkpoints.integrity import read_manifest as read_checkpoint_manifest
from etude.runs.folder import CHECKPOINTS
from etude.runs.reading import read_conclusion
from etude.runs.record import RECORD, comparable, read


def first_line(before: Path, now: Path) -> dict[str, Any] | None:
    """Return the first line in which the records of two runs differ, apart from wall-clock values; None if they are equal.

    Returns:
        `line`, from 1, `step`, and `values`: both values of each name that differs, None where a value is missing.

    Raises:
        DataError: If a record cannot be read or is damaged.
    """
    lines = [[_numbers(line) for line in map(comparable, read(run / RECORD))] for run in (before, now)]
    for number in range(1, max(map(len, lines)) + 1):
        old, new = (record[number - 1] if number <= len(record) else {} for record in lines)
        values = _differing(old, new)
        if values:
            return {"line": number, "step": (old or new)["step"], "values": values}
    return None


def _numbers(line: str) -> dict[str, Any]:
    """Return the numbers of a line of the record by name; non-finite ones are strings."""
    content = json.loads(line)
    return {"step": content["step"], "tokens": content["tokens"], **content["values"]}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return both values of each name that differs. Compared as text: 0.0 differs from -0.0, and nan equals nan."""
    pairs = {name: [old.get(name), new.get(name)] for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}


def first_tensor(before: Path, now: Path) -> dict[str, Any] | None:
    """Return the first tensor that differs between two checkpoints, the model's first; None if all are equal.

    Args:
        before: Folder of the first checkpoint.
        now: Folder of the second checkpoint.

    Returns:
        `file`, `tensor`, and either `only_in`, the checkpoint that has it, or `largest_difference`, the largest absolute
        difference of its elements (None if shapes or dtypes differ).

    Raises:
        CheckpointBrokenError: If a checkpoint is damaged.
    """
    for stem in (MODEL, TRAINING):
        file = f"{stem}.safetensors"
        files = [read_checkpoint_manifest(folder).files for folder in (before, now)]
        hashes = [{name: each[name] for name in tensor_files(stem, each)} for each in files]
        if hashes[0] == hashes[1]:
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
    """Return both values of each score that differs between two finished runs, None where a score is missing.

    Raises:
        BrokenFileError: If the conclusion of a run is missing or broken.
    """
    old, new = (read_conclusion(run).scores for run in (before, now))
    return {name: [*map(_finite, pair)] for name, pair in _differing(old, new).items()}


def last_checkpoint(run: Path) -> Path:
    """Return the folder of the last checkpoint of a finished run.

    Raises:
        DataError: If the conclusion of the run is missing or broken.
    """
    return checkpoint_folder(run / CHECKPOINTS, read_conclusion(run).step)


def _finite(value: Any) -> Any:
    """Return a value, as text if it is a non-finite number, which JSON cannot represent."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
