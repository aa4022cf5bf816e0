"""State of the code that a run or a sweep is made with: versions of packages, commit, uncommitted changes, sources."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
from pathlib import Path

PACKAGES = (
    "etude",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "transformers",
    "torchmetrics",
    "sacrebleu",
    "wandb",
)
"""Packages whose versions can affect results."""

_GIT_SECONDS = 5.0


def packages() -> dict[str, str | None]:
    """Return the versions of `PACKAGES`; None for packages that are not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def code(folder: Path) -> dict[str, str | None]:
    """Return the commit and uncommitted changes of the code in a folder.

    Returns:
        `commit`: None without git or a commit, or if the folder is an installed package (which has a version).
        `changes`: sha256 of the differences from the commit, including untracked files; None if there are none.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    # An installed package may lie inside a repository that does not track it.
    if commit is None or not _git(folder, "ls-files", "--", "."):
        return {"commit": None, "changes": None}
    difference = _git(folder, "diff", "HEAD", "--binary", "--", ".") or b""
    untracked = (_git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b"").split(b"\0")
    files = [folder / os.fsdecode(name) for name in untracked if name and (folder / os.fsdecode(name)).is_file()]
    digest = hashlib.sha256(difference)
    for file in files:
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return {"commit": commit.decode().strip(), "changes": digest.hexdigest() if difference or files else None}


def sources(package: str) -> str | None:
    """Return the sha256 of the paths and contents of a package's Python files; None if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    digest, origin = hashlib.sha256(), Path(spec.origin)
    for file in sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]:
        digest.update(file.relative_to(origin.parent).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return the output of a git command in a folder; None if git is missing or fails."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=_GIT_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None
