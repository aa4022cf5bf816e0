"""The manifest of a checkpoint, and verification of the folder against it.

Every checkpoint has a `manifest.json` with the size and sha256 of each of its files, and a hash of its own. Nothing is
read from a checkpoint before that is checked. A hash reveals accidents, not intentions, so whatever is read afterwards
is checked against a schema as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from etude.atomic import Written
from etude.checkpoints.codec import MODEL, TRAINING, decode, encode
from etude.errors import DataError
from etude.schema_errors import shown
from etude.untrusted import ANY_SIZE, BrokenFileError, decode_json, inside, opened, read_bytes

MANIFEST = "manifest.json"
STATE = "state.json"
ADVICE = "use another one, `etude resume RUN` finds the newest whole one"
"""What to do about a broken checkpoint."""

_MANIFEST_BYTES = 16 << 20
_CHECKPOINT = re.compile(r"step-(\d{8,})")
_AVERAGE = re.compile(r"step-\d{8,}-mean-(?:last|best)-\d+")
_SHARD = re.compile(r"\.shard-(\d{1,6})-of-(\d{1,6})")
_log = logging.getLogger(__name__)


class CheckpointBrokenError(DataError):
    """A checkpoint is not what was written: a file is missing, cut short or changed."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and hash of a file."""

    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _NotFinite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A score that is not finite, as `etude.checkpoints.codec` writes it."""

    bits: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")] = msgspec.field(name="$float")


class _Aliases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tied tensors of both files."""

    model: dict[str, str]
    training: dict[str, str]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `manifest.json` says."""

    step: Annotated[int, Meta(ge=0)]
    score: int | float | _NotFinite | None
    aliases: _Aliases
    files: dict[str, _File]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: Optimizer updates done.
        score: The validation's score at this step; None where none was taken.
        aliases: Tied tensors (see `codec.Encoded`).
        files: Size and hash of every other file, by its path in the folder.
    """

    step: int
    score: float | None
    aliases: dict[str, dict[str, str]]
    files: dict[str, Written]

    def to_text(self) -> str:
        """Return the manifest as JSON, with a hash of its own content."""
        score = encode({"score": self.score}).state["score"]
        files = {name: {"size": file.size, "sha256": file.sha256} for name, file in self.files.items()}
        content = {"step": self.step, "score": score, "aliases": self.aliases, "files": files}
        check = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return json.dumps({**content, "sha256": check}, indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Read what `to_text` wrote.

        Raises:
            ValueError: If any character of it has changed.
        """
        try:
            content = decode_json(text.encode(), _Content, MANIFEST, ADVICE)
        except BrokenFileError as error:
            raise ValueError(error.problem) from error
        files = {name: Written(file.size, file.sha256) for name, file in content.files.items()}
        for stem in (MODEL, TRAINING):
            tensor_files(stem, files)
        if STATE not in files:
            raise ValueError(f"files[{STATE!r}] is missing")
        score = decode(msgspec.to_builtins(content.score), {})
        manifest = cls(content.step, score, msgspec.to_builtins(content.aliases), files)
        if manifest.to_text() != text:
            raise ValueError("its own hash does not fit")
        return manifest


def tensor_file(stem: str, rank: int = 0, ranks: int = 1) -> str:
    """Return the name of a file of tensors; of several ranks, each has its own (see `etude.checkpoints.shards`)."""
    return f"{stem}.safetensors" if ranks == 1 else f"{stem}.shard-{rank}-of-{ranks}.safetensors"


def tensor_files(stem: str, files: Iterable[str]) -> list[str]:
    """Return which of a checkpoint's files hold the tensors of a stem, `model` or `training`, in the order of the ranks.

    Raises:
        ValueError: If one is missing.
    """
    names = set(files)
    shards = [
        written for name in names if (written := _SHARD.fullmatch(name.removeprefix(stem).removesuffix(".safetensors")))
    ]
    ranks = max((int(written[2]) for written in shards), default=1)
    needed = [tensor_file(stem, rank, ranks) for rank in range(min(ranks, len(shards) + 1))]
    missing = next((name for name in needed if name not in names), None)
    if missing is not None:
        raise ValueError(f"files[{missing!r}] is missing")
    return needed


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the name of a step's checkpoint in the folder of checkpoints."""
    return folder / f"step-{step:08d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder of this name is a step's checkpoint, or one of an average of several."""
    return any(pattern.fullmatch(name) for pattern in (_CHECKPOINT, _AVERAGE))


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by step, ascending, whole or not; none if there is no such folder."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        written = _CHECKPOINT.fullmatch(path.name)
        if written and path.is_dir():
            found[int(written[1])] = path
    return dict(sorted(found.items()))


def read_manifest(folder: Path) -> Manifest:
    """Return a checkpoint's manifest.

    Raises:
        CheckpointBrokenError: If it is missing or changed.
    """
    path = folder / MANIFEST
    try:
        content = read_bytes(inside(folder, MANIFEST, path, ADVICE), ADVICE, _MANIFEST_BYTES)
        return Manifest.from_text(content.decode())
    except BrokenFileError as error:
        raise CheckpointBrokenError(broken(folder, f"{MANIFEST}: {error.problem}")) from error
    except ValueError as error:
        raise CheckpointBrokenError(broken(folder, f"{MANIFEST}: {error}")) from error


def verify(folder: Path) -> list[str]:
    """Read every file of a checkpoint and return what is wrong with it: one line for each file that is."""
    try:
        manifest = read_manifest(folder)
    except CheckpointBrokenError as error:
        return [str(error)]
    return [problem for name, file in manifest.files.items() if (problem := problem_of(folder, name, file))]


def problem_of(folder: Path, name: str, written: Written) -> str | None:
    """Read a file of a checkpoint, and return what is wrong with it, if anything is."""
    try:
        with opened(inside(folder, name, folder / MANIFEST, ADVICE), ADVICE, ANY_SIZE) as file:
            size = os.fstat(file.fileno()).st_size
            if size != written.size:
                return f"{name}: {size} bytes, not the {written.size} that were written"
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except BrokenFileError as error:
        return f"{shown(name)}: {error.problem}"
    return None if found == written.sha256 else f"{name}: sha256 {found[:12]}…, not the {written.sha256[:12]}… written"


def broken(folder: Path, problem: str) -> str:
    """Return the message of an error about a broken checkpoint."""
    return f"the checkpoint {folder} is broken: {problem}; {ADVICE}"


def newest_valid(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder of checkpoints, or None; each broken one passed over is logged."""
    for path in reversed(checkpoints(folder).values()):
        problems = verify(path)
        if not problems:
            return path
        _log.warning("passing over the broken checkpoint %s: %s", path, problems[0])
    return None
