"""Writing that survives a crash: what a name points to is whole and on the disk before the name exists."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etude.errors import StorageError

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp")
_ADVICE = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of the quota and run the same command again",
    errno.EROFS: "choose a place that can be written, with paths.outputs=FOLDER",
    errno.EACCES: "allow writing there, or choose another place with paths.outputs=FOLDER",
    errno.EPERM: "allow writing there, or choose another place with paths.outputs=FOLDER",
}


@dataclass(frozen=True)
class Written:
    """What a file holds, as it was written.

    Attributes:
        size: Bytes.
        sha256: Their hash, in hexadecimal.
    """

    size: int
    sha256: str


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn an error of the operating system while `target` is written into one line.

    Raises:
        StorageError: If the disk is full, read-only, broken or forbidden.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "see whether the disk is in order and run the same command again")
        place = f" ({error.filename})" if error.filename not in (None, target, str(target)) else ""
        raise StorageError(f"cannot write {target}: {error.strerror or error}{place}; {advice}") from error


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> Written:
    """Write a new file and wait until it is on the disk.

    Args:
        path: Where; must not exist.
        chunks: Its bytes.

    Returns:
        The size and hash of what was written, taken on the way so that the file need not be read again.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += memoryview(chunk).nbytes
        file.flush()
        os.fsync(file.fileno())
    return Written(size, digest.hexdigest())


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, so that their names are on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a file's own fsync does not cover its name."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Wait until a folder is on the disk with all that is in it."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file a new content at once: a reader, or a crash, sees the old one or the new one.

    Raises:
        StorageError: If it cannot be written; the old content is then untouched.
    """
    temporary = _beside(path)
    with storage_errors(path):
        try:
            remove_leftovers(path.parent, path.name)
            write_file(temporary, [content])
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link to `target` (relative to the link's folder) at once; one that does so is not touched.

    Raises:
        StorageError: If it cannot be written; the old link is then untouched.
    """
    if link.is_symlink() and str(link.readlink()) == target:
        return
    temporary = _beside(link)
    with storage_errors(link):
        try:
            remove_leftovers(link.parent, link.name)
            temporary.symlink_to(target)
            temporary.replace(link)
            sync_folder(link.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Return a hidden sibling that no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(parent: Path, name: str = "") -> None:
    """Remove what killed processes left of what they wrote beside its name; a living one may still be writing its own.

    Args:
        parent: The folder.
        name: What they were writing; by default anything.
    """
    for path in parent.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found and name in ("", found[1]) and not _lives(int(found[2])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether another process has this id. One's own leftovers come from an earlier bearer of the id."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
