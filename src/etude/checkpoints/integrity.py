"""What a checkpoint folder says of itself, and whether it is true.

Every checkpoint has a `manifest.json` with the size and sha256 of each of its files, and a hash of its own. Nothing is
read from a checkpoint before that is checked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from etude.atomic import Written
from etude.checkpoints.codec import decode, encode
from etude.errors import StorageError

MANIFEST = "manifest.json"
_CHECKPOINT = re.compile(r"step-(\d{8,})")
_AVERAGE = re.compile(r"step-\d{8,}-mean-(?:last|best)-\d+")
_log = logging.getLogger(__name__)


class CheckpointBrokenError(StorageError):
    """A checkpoint is not what was written: a file is missing, cut short or changed."""


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
            content = json.loads(text)
            files = {name: Written(file["size"], file["sha256"]) for name, file in content["files"].items()}
            manifest = cls(content["step"], decode(content["score"], {}), content["aliases"], files)
        except (KeyError, TypeError, AttributeError, struct.error) as error:
            raise ValueError(f"not a manifest: {error!r}") from error
        if manifest.to_text() != text:
            raise ValueError("its own hash does not fit")
        return manifest


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
        return Manifest.from_text(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise CheckpointBrokenError(broken(folder, f"{MANIFEST}: {error}")) from error


def verify(folder: Path) -> list[str]:
    """Read every file of a checkpoint and return what is wrong with it: one line for each file that is."""
    try:
        manifest = read_manifest(folder)
    except CheckpointBrokenError as error:
        return [str(error)]
    return [problem for name, file in manifest.files.items() if (problem := problem_of(folder / name, name, file))]


def problem_of(path: Path, name: str, written: Written) -> str | None:
    """Read a file, called `name` in its checkpoint, and return what is wrong with it, if anything is."""
    try:
        size = path.stat().st_size
        if size != written.size:
            return f"{name}: {size} bytes, not the {written.size} that were written"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{name}: {error.strerror or error}"
    return None if found == written.sha256 else f"{name}: sha256 {found[:12]}…, not the {written.sha256[:12]}… written"


def broken(folder: Path, problem: str) -> str:
    """Return the message of an error about a broken checkpoint."""
    return (
        f"the checkpoint {folder} is broken: {problem}; use another one, `etude resume RUN` finds the newest whole one"
    )


def newest_valid(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder of checkpoints, or None; each broken one passed over is logged."""
    for path in reversed(checkpoints(folder).values()):
        problems = verify(path)
        if not problems:
            return path
        _log.warning("passing over the broken checkpoint %s: %s", path, problems[0])
    return None
