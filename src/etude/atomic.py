"""Crash-safe writing: content is complete and on the disk before its name exists."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Size and hash of a file's content, as it was written.

    Attributes:
        size: Number of bytes.
        sha256: Hash of the bytes, in hexadecimal.
    """

    size: int
    sha256: str


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn an operating system error in writing `target` into one line; an OSError that has no number is not one.

    Raises:
        StorageError: If the disk is full, read-only, broken or forbidden.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own, which says nothing of a disk
            raise
        advice = _ADVICE.get(error.errno, "see whether the disk is in order and run the same command again")
        place = f" ({error.filename})" if error.filename not in (None, target, str(target)) else ""
        raise StorageError(f"cannot write {target}: {error.strerror or error}{place}; {advice}") from error


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> Written:
    """Write a new file and wait until it is on the disk.

    Args:
        path: Path of the file, which must not exist.
        chunks: Bytes of the file.

    Returns:
        Size and hash of the content, computed on the way so that the file need not be read again.
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
    """Create a folder and its missing parents, and wait until their names are on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it are on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk: a file's own fsync does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically: a reader, or a crash, sees the old content or the new.

    Raises:
        StorageError: If it cannot be written; the old content is then untouched.
    """
    temporary = _beside(path)
    with storage_errors(path):
        try:
            remove_leftovers(path.parent, path.name)
            write_file(temporary, [content])
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link atomically to `target`, relative to the link's folder, unless it does already.

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
            sync(link.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Return the path of a hidden sibling that no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(parent: Path, name: str = "") -> None:
    """Remove temporary files of killed processes; those of running processes may still be written.

    Args:
        parent: Folder of the files.
        name: Name of the file that they were to become; by default any.
    """
    for path in parent.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and name in ("", match[1]) and not _is_running(int(match[2])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Return whether another process has this id. Leftovers with this process's own id are of an earlier process."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, in UTF-8: it has the old text or the new one, never a part.

    Raises:
        StorageError: If it cannot be written.
    """
    replace_file(path, text.encode())


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write plain values as JSON, atomically. Numbers that are not finite are written as Python reads them: NaN, Infinity.

    Args:
        path: Path of the file.
        values: Mappings, lists, texts and numbers.
        indent: Spaces per level; None: all on one line.

    Raises:
        StorageError: If it cannot be written.
    """
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=False) + "\n")
