"""A checkpoint is a folder that is written beside its name, proven by hashes, and never overwritten.

    checkpoints/step-00012000/
      model.safetensors       the model's state_dict
      training.safetensors    every other tensor: optimizer, callbacks, loaders
      state.json              everything else
      config.yaml facts.json tokenizer/   what the model is rebuilt from
      manifest.json           step, score, ties, and size and sha256 of each file

Written as `.step-00012000.<pid>.tmp`, every file and folder synced, then renamed, and the parent synced: a name that
can be seen is a checkpoint that is whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from torch import Tensor

from etude.atomic import Written, make_folder, remove_leftovers, storage_errors, sync, write_file
from etude.checkpoints.codec import JSON_DEPTH, MODEL, TRAINING, Encoded, decode, encode, safetensors_bytes
from etude.checkpoints.integrity import (
    ADVICE,
    MANIFEST,
    STATE,
    CheckpointBrokenError,
    Manifest,
    broken,
    is_checkpoint_name,
    problem_of,
    read_manifest,
    tensor_file,
    tensor_files,
    verify,
)
from etude.checkpoints.shards import Place, Target, collect, locate, read_tensor, report, report_error
from etude.errors import StorageError
from etude.safetensors_header import read_safetensors_header
from etude.schema_errors import shown
from etude.untrusted import BrokenFileError, convert, decode_json, inside, read_bytes

_CHUNK = 1 << 20
_STATE_BYTES = 2 << 30
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in memory, ready to be written.

    Attributes:
        step: Optimizer updates done.
        score: The validation's score, if one was taken.
        content: The checkpoint, taken apart.
    """

    step: int
    score: float | None
    content: Encoded


def snapshot(checkpoint: Mapping[str, Any], rank: int = 0) -> Snapshot:
    """Take a Lightning checkpoint apart, and copy all its tensors to the CPU's memory.

    Args:
        checkpoint: As Lightning dumps it. `checkpoint["etude"]["score"]` is the validation's score.
        rank: This process's rank, where tensors are sharded: of those it takes its own slices, and all others on rank 0.

    Returns:
        A snapshot that shares no memory with the checkpoint: the training may go on before it is written.

    Raises:
        StorageError: If it holds something that is neither a plain value nor a tensor.
    """
    score = checkpoint.get("etude", {}).get("score")
    return Snapshot(checkpoint.get("global_step", 0), score, encode(checkpoint, rank))


def write(taken: Snapshot, folder: Path, companions: Mapping[str, Path]) -> None:
    """Write a snapshot as a new checkpoint folder; a whole one of the same step is kept instead.

    Args:
        taken: The snapshot.
        folder: The checkpoint's name, such as `checkpoints/step-00012000`.
        companions: Files and folders to copy into it, by their name there.

    Raises:
        StorageError: If it cannot be written, or another checkpoint has that name. No trace is left, and no other
            checkpoint is touched.
    """
    temporary = begin(folder, taken.step, taken.score)
    if temporary is not None:
        complete(taken, folder, Place(0, 1, temporary, 0.0), companions)


def begin(folder: Path, step: int, score: float | None) -> Path | None:
    """Make the folder that a checkpoint is written to until it is whole; None: a whole one of the step is there.

    Raises:
        StorageError: If it cannot be made, or another checkpoint has that name.
    """
    with storage_errors(folder):
        make_folder(folder.parent)
        remove_leftovers(folder.parent)
        if os.path.lexists(folder) and _holds(folder, step, score):
            return None
        temporary = _temporary(folder, "")
        temporary.mkdir()
        return temporary


def complete(taken: Snapshot, folder: Path, place: Place, companions: Mapping[str, Path]) -> None:
    """Write what the first rank, or the only process, has of a checkpoint; when all is there, give it its name.

    Args:
        taken: The snapshot.
        folder: The checkpoint's name.
        place: Place of the first rank, in the folder that `begin` made.
        companions: Files and folders to copy into it, by their name there.

    Raises:
        StorageError: If it cannot be written, or another rank could not write its part. No trace is left.
    """
    with storage_errors(folder):
        try:
            files = _write_content(taken, place, companions)
            files.update(collect(place))
            manifest = Manifest(taken.step, taken.score, taken.content.aliases, files)
            write_file(place.folder / MANIFEST, [manifest.to_text().encode()])
            sync(place.folder)
            if os.path.lexists(folder):
                remove(folder)  # see _holds
            place.folder.rename(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(place.folder, ignore_errors=True)
            raise


def write_shard(taken: Snapshot, folder: Path, place: Place) -> None:
    """Write this rank's slices of a checkpoint, of which the first rank writes the rest.

    Args:
        taken: The snapshot.
        folder: The checkpoint's name.
        place: This rank's place.

    Raises:
        StorageError: If they cannot be written; the first rank is told.
    """
    try:
        with storage_errors(folder):
            report(place, _write_tensors(taken, place))
    except StorageError as error:
        report_error(place, error)
        raise


def _holds(folder: Path, step: int, score: float | None) -> bool:
    """Whether the folder is a whole checkpoint of the step.

    False if it may be replaced: it is a broken one, or was written before the validation that has now given a score.

    Raises:
        StorageError: If it is one of another step, or no checkpoint at all: nobody asked to replace that.
    """
    problems = verify(folder)
    if problems:
        if folder.is_symlink() or not folder.is_dir() or not is_checkpoint_name(folder.name):
            raise StorageError(f"cannot write the checkpoint {folder}: something else has that name; move it away")
        _log.warning("replacing the broken checkpoint %s: %s", folder, problems[0])
        return False
    manifest = read_manifest(folder)
    found = manifest.step
    if found != step:
        raise StorageError(
            f"cannot write step {step} to {folder}: it is a checkpoint of step {found}; use another name"
        )
    return score is None or manifest.score is not None


def _write_content(taken: Snapshot, place: Place, companions: Mapping[str, Path]) -> dict[str, Written]:
    files = _write_tensors(taken, place)
    state = json.dumps(taken.content.state, allow_nan=False, separators=(",", ":"))
    files[STATE] = write_file(place.folder / STATE, [state.encode()])
    for name, source in companions.items():
        files.update(_copy(source, place.folder, name))
    return files


def _write_tensors(taken: Snapshot, place: Place) -> dict[str, Written]:
    files = {}
    for stem, tensors in taken.content.tensors.items():
        name = tensor_file(stem, place.rank, place.ranks)
        files[name] = write_file(place.folder / name, safetensors_bytes(tensors))
    return files


def _copy(source: Path, folder: Path, name: str) -> dict[str, Written]:
    """Copy a file, or a folder with all that is in it, to `folder / name`."""
    if not source.is_dir():
        return {name: write_file(folder / name, _chunks(source))}
    (folder / name).mkdir()
    files = {}
    for inner in sorted(source.iterdir()):
        files.update(_copy(inner, folder, f"{name}/{inner.name}"))
    sync(folder / name)
    return files


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _temporary(folder: Path, purpose: str) -> Path:
    return folder.with_name(f".{folder.name}{purpose}.{os.getpid()}.tmp")


def remove(folder: Path) -> None:
    """Remove a checkpoint; it is gone at once, or, if this is interrupted, with the next save."""
    temporary = _temporary(folder, ".removed")
    with storage_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        folder.rename(temporary)
        shutil.rmtree(temporary)


def read_weights(folder: Path, wanted: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the tensors of the model's state_dict, on the CPU; tied ones are one tensor.

    Args:
        folder: The checkpoint.
        wanted: Tensors whose names and shapes they must have: the state_dict of what they are for. Where those are
            sharded over ranks, only this rank's slices are read, and returned as such. None: any.

    Raises:
        CheckpointBrokenError: If the manifest or the weights are not what was written, or are those of another model.
    """
    weights = read_tensors(folder, MODEL, wanted)
    problem = None if wanted is None else _misfit(weights, wanted)
    if problem:
        raise CheckpointBrokenError(broken(folder, f"{MODEL}.safetensors: {problem}"))
    return weights


def _misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Return how tensors differ from others in names and shapes, by the first that does; None if they do not."""
    for name, tensor in wanted.items():
        if name not in weights:
            return f"{name} is missing, which the model of config.yaml has"
        if weights[name].shape != tensor.shape:
            return f"{name} has the shape {list(weights[name].shape)}, not the {list(tensor.shape)} of config.yaml"
    left = next((name for name in weights if name not in wanted), None)
    return None if left is None else f"{shown(left)} is not a tensor of the model of config.yaml"


def read_tensors(folder: Path, stem: str, targets: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a stem of a checkpoint, on the CPU; tied ones are one tensor.

    Args:
        folder: The checkpoint.
        stem: `model`, or `training` for all other tensors.
        targets: What they will be copied to, by name; see `read_weights`.

    Raises:
        CheckpointBrokenError: If the manifest or a file is not what was written.
    """
    manifest = read_manifest(folder)
    for name in tensor_files(stem, manifest.files):
        problem = problem_of(folder, name, manifest.files[name])
        if problem:
            raise CheckpointBrokenError(broken(folder, problem))
    with _broken_files(folder):
        return _read_tensors(folder, stem, manifest, torch.device("cpu"), (targets or {}).get)


@contextmanager
def _broken_files(folder: Path) -> Iterator[None]:
    """Let whatever is wrong with a file of a checkpoint be a `CheckpointBrokenError`."""
    try:
        yield
    except BrokenFileError as error:
        name = Path(str(error.path)).name
        raise CheckpointBrokenError(broken(folder, f"{name}: {error.problem}")) from error


def _read_tensors(
    folder: Path, stem: str, manifest: Manifest, device: torch.device, target: Callable[[str], Tensor | None]
) -> dict[str, Tensor]:
    paths = [inside(folder, name, folder / MANIFEST, ADVICE) for name in tensor_files(stem, manifest.files)]
    try:
        located = locate([read_safetensors_header(path, ADVICE) for path in paths])
        with ExitStack() as opened_files:
            files = [opened_files.enter_context(safe_open(path, framework="pt")) for path in paths]
            tensors = {name: read_tensor(files, name, rows, device, target(name)) for name, rows in located.items()}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BrokenFileError(paths[0], " ".join(str(error).split()), ADVICE) from error
    for alias, stored in manifest.aliases[stem].items():
        if stored not in tensors:
            problem = f"aliases.{stem}['{shown(alias)}'] is '{shown(stored)}', which {paths[0].name} does not have"
            raise BrokenFileError(folder / MANIFEST, problem, ADVICE)
        tensors[alias] = tensors[stored]
    return tensors


class _StoredState(msgspec.Struct, frozen=True):
    """What etude and Lightning look for in `state.json`, as far as it is there; callbacks and plugins add to it."""

    epoch: Annotated[int, Meta(ge=0)] = 0
    global_step: Annotated[int, Meta(ge=0)] = 0
    state_dict: dict[str, Any] = {}
    loops: dict[str, dict[str, Any]] = {}
    callbacks: dict[str, Any] = {}
    optimizer_states: list[Any] = []
    lr_schedulers: list[Any] = []
    etude: dict[str, Any] = {}
    progress: dict[str, Any] = {}


def read(folder: Path, device: torch.device, target: Target = lambda stem, name: None) -> dict[str, Any]:
    """Return the whole checkpoint as it was handed to `snapshot`.

    Args:
        folder: The checkpoint.
        device: Device of its tensors.
        target: What each tensor will be copied to; where that is sharded, this rank's slice is read, and returned as such.

    Raises:
        CheckpointBrokenError: If any file is not what was written; names the file.
    """
    problems = verify(folder)
    if problems:
        raise CheckpointBrokenError(broken(folder, problems[0]))
    manifest = read_manifest(folder)
    with _broken_files(folder):
        state = _read_state(folder, manifest.step)
        tensors = {
            stem: _read_tensors(folder, stem, manifest, device, partial(target, stem)) for stem in (MODEL, TRAINING)
        }
        try:
            found: dict[str, Any] = decode(state, tensors)
        except ValueError as error:
            raise BrokenFileError(folder / STATE, str(error), ADVICE) from error
        return found


def _read_state(folder: Path, step: int) -> dict[str, Any]:
    """Return what `state.json` says, with marks; it must be of the step."""
    path = inside(folder, STATE, folder / MANIFEST, ADVICE)
    values = decode_json(read_bytes(path, ADVICE, _STATE_BYTES), dict[str, Any], path, ADVICE, depth=JSON_DEPTH)
    state = convert(values, _StoredState, path, ADVICE)
    if state.global_step != step:
        raise BrokenFileError(path, f"global_step is {state.global_step}, not the {step} of {MANIFEST}", ADVICE)
    return values
