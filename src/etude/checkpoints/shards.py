"""Checkpoints of weights that are sharded over ranks: each rank writes its slices, and reads those that it needs.

    model.shard-0-of-4.safetensors  … model.shard-3-of-4.safetensors        in place of model.safetensors
    training.shard-0-of-4.safetensors … training.shard-3-of-4.safetensors   in place of training.safetensors

FSDP2 cuts a tensor along its first dimension, one slice for each rank in their order. So a tensor is the concatenation
of its slices in the order of the files; a rank behind the last row has none. Tensors that are not sharded are in the
first file alone. All else is as in every checkpoint: any number of processes continues from it, sharded or not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from etude.atomic import Written, replace_file
from etude.errors import StorageError
from etude.safetensors_header import StoredTensor
from etude.untrusted import decode_json, read_bytes

_NOTE_BYTES = 1 << 16
_POLL_SECONDS = 0.02

Target = Callable[[str, str], Tensor | None]
"""Returns the tensor that a stored one will be copied to, by the stem of the file and the name there; None: unknown.
Where that is sharded, only this rank's slice is read."""


@dataclass(frozen=True)
class Place:
    """Which part of a sharded checkpoint this process writes, and where.

    Attributes:
        rank: The process's rank.
        ranks: Number of ranks.
        folder: Folder that all ranks write to until the checkpoint is whole.
        seconds: Longest time that the first rank waits for the others.
    """

    rank: int
    ranks: int
    folder: Path
    seconds: float


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rank tells the first one: the files it has written, or why it could not."""

    files: dict[str, tuple[Annotated[int, Meta(ge=0)], Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]] = {}
    error: str | None = None


# Notes between the ranks, in the folder itself: the threads that write cannot use collectives beside those of the steps


def report(place: Place, files: Mapping[str, Written]) -> None:
    """Tell the first rank that this one's files are on the disk."""
    _send(place, {"files": {name: [file.size, file.sha256] for name, file in files.items()}})


def report_error(place: Place, error: BaseException) -> None:
    """Tell the first rank why this one cannot write its files, if that can be written."""
    try:
        _send(place, {"error": str(error)[: _NOTE_BYTES // 8]})
    except StorageError:
        return  # the disk that took no files takes no note: the first rank waits until its time is over


def _send(place: Place, content: dict[str, Any]) -> None:
    replace_file(place.folder / _note_name(place.rank), json.dumps(content).encode())


def _note_name(rank: int) -> str:
    return f"shard-{rank}.json"


def collect(place: Place) -> dict[str, Written]:
    """Wait until all other ranks have written their files, and return those; their notes are removed.

    Raises:
        StorageError: If a rank could not write its files, or has not in time.
    """
    deadline, files = time.monotonic() + place.seconds, dict[str, Written]()
    for rank in range(1, place.ranks):
        path = place.folder / _note_name(rank)
        while not path.exists():
            if time.monotonic() > deadline:
                raise StorageError(
                    f"rank {rank} has not written its part of {place.folder} within {place.seconds:g} s; do all nodes share "
                    "that disk? set paths.outputs to a folder that they share, or a longer trainer.timeout"
                )
            time.sleep(_POLL_SECONDS)
        note = decode_json(read_bytes(path, "", _NOTE_BYTES), _Note, path, "")
        if note.error is not None:
            raise StorageError(f"rank {rank}: {note.error}")
        files.update({name: Written(size, sha256) for name, (size, sha256) in note.files.items()})
        path.unlink()
    return files


# Reading


@dataclass(frozen=True)
class Slices:
    """Where the rows of a stored tensor are.

    Attributes:
        shape: Its sizes as a whole.
        parts: Number of the file, first row and the row behind the last, for each slice.
    """

    shape: tuple[int, ...]
    parts: tuple[tuple[int, int, int], ...]


def locate(headers: Sequence[Mapping[str, StoredTensor]]) -> dict[str, Slices]:
    """Return where each tensor is, by name, from the headers of a stem's files.

    Raises:
        ValueError: If slices of one tensor do not fit together; names it.
    """
    found: dict[str, list[tuple[int, StoredTensor]]] = {}
    for number, header in enumerate(headers):
        for name, tensor in header.items():
            found.setdefault(name, []).append((number, tensor))
    located = {}
    for name, slices in found.items():
        (first, tensor), others = slices[0], slices[1:]
        if not others:
            located[name] = Slices(tensor.shape, ((first, 0, tensor.shape[0] if tensor.shape else 1),))
            continue
        if not tensor.shape or any((one.dtype, one.shape[1:]) != (tensor.dtype, tensor.shape[1:]) for _, one in others):
            raise ValueError(f"the slices of {name} do not fit together")
        begin, parts = 0, []
        for number, one in slices:
            parts.append((number, begin, begin + one.shape[0]))
            begin += one.shape[0]
        located[name] = Slices((begin, *tensor.shape[1:]), tuple(parts))
    return located


def read_tensor(files: Sequence[Any], name: str, slices: Slices, device: torch.device, target: Tensor | None) -> Tensor:
    """Read a tensor, or this rank's slice of it if its target is sharded.

    Args:
        files: The stem's files, opened by the safetensors library.
        name: Name of the tensor.
        slices: Where it is.
        device: Device of the result; a sharded one is on that of its target.
        target: What it will be copied to, if that is known.

    Returns:
        A new tensor; sharded as the target is, if that has the same shape.
    """
    if isinstance(target, DTensor) and tuple(target.shape) == slices.shape:
        local = target.to_local()
        begin = min(
            -(-target.shape[0] // target.device_mesh.size()) * target.device_mesh.get_local_rank(), target.shape[0]
        )
        rows = read_slice(files, name, slices, begin, begin + local.shape[0]).to(local.device)
        return DTensor.from_local(
            rows, target.device_mesh, [Shard(0)], run_check=False, shape=target.shape, stride=target.stride()
        )
    if len(slices.parts) == 1:
        # Copied: the library's tensors are windows on the mapped file, which keep a removed checkpoint on the disk, share
        # one storage, and are not aligned as those that torch allocates.
        whole: Tensor = files[slices.parts[0][0]].get_tensor(name)
        return whole.to(device, copy=True)
    return read_slice(files, name, slices, 0, slices.shape[0]).to(device)


def read_slice(files: Sequence[Any], name: str, slices: Slices, begin: int, end: int) -> Tensor:
    """Return rows of a tensor, in memory of its own."""
    pieces = [
        files[number].get_slice(name)[max(begin, first) - first : min(end, last) - first]
        for number, first, last in slices.parts
        if max(begin, first) < min(end, last)
    ]
    if not pieces:  # a rank behind the last row
        return files[slices.parts[0][0]].get_slice(name)[:0].clone()
    return torch.cat(pieces)
