"""The way of a run's folder between two disks, in parts that fit in memory.

A checkpoint arrives whole or not at all, and the file that says that a run is finished comes last: whenever this is
interrupted, what has arrived is a run that can be continued. Files that are there already stay.

Uses the standard library alone: Ray sends it to its nodes as it is here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

Entries: TypeAlias = dict[str, tuple[int, int, str]]
"""Size, time of change in nanoseconds, and target if it is a link, of each file by its path in the folder."""

Part: TypeAlias = tuple[str, bytes]
"""A piece of a file: its path in the folder, and the bytes that follow those of the piece before."""

PART = 8 << 20
"""Bytes that are sent at once."""

CHECKPOINTS = "checkpoints"
FINISHED = "finished.json"
"""Names in a run's folder; see `etude.runs.folder`."""

_STAGING = ".arriving"


def entries(folder: Path, without: Sequence[str] = ()) -> Entries:
    """Return what is in a folder; of what is hidden, such as locks and files that are being written, nothing.

    Args:
        folder: The folder, which need not exist.
        without: Names at its top that are left out.
    """
    found: Entries = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in (*files, *linked):
            path = Path(parent) / name
            relative = path.relative_to(folder)
            if name.startswith(".") or relative.parts[0] in without:
                continue
            try:
                status = path.lstat()
                link = str(path.readlink()) if path.is_symlink() else ""
            except FileNotFoundError:  # removed meanwhile
                continue
            found[relative.as_posix()] = (0, 0, link) if link else (status.st_size, status.st_mtime_ns, "")
    return found


def best_only(found: Entries) -> Entries:
    """Leave out the checkpoints that a run which starts from this one does not read."""
    best = found.get(f"{CHECKPOINTS}/best", (0, 0, ""))[2]
    if not best:
        return found
    kept = (f"{CHECKPOINTS}/best", f"{CHECKPOINTS}/{best}/")
    return {
        name: entry for name, entry in found.items() if not name.startswith(f"{CHECKPOINTS}/") or name.startswith(kept)
    }


def differing(there: Entries, here: Entries) -> list[str]:
    """Return the files, not the links, that are there and not alike here: those of checkpoints first.

    The record of a run is read after its checkpoints, and so knows at least as much as they do.
    """
    files = [name for name, entry in there.items() if not entry[2]]
    names = {name for name in files if here.get(name) != there[name]}
    incomplete = tuple(f"{name.rpartition('/')[0]}/" for name in names if name.startswith(f"{CHECKPOINTS}/"))
    whole = {name for name in files if incomplete and name.startswith(incomplete)}
    return sorted(names | whole, key=lambda name: (not name.startswith(f"{CHECKPOINTS}/"), name))


def parts(folder: Path, names: Sequence[str], size: int = PART) -> Iterator[list[Part]]:
    """Yield the content of files, in lists of about so many bytes.

    Raises:
        FileNotFoundError: If one has been removed since it was listed.
    """
    batch: list[Part] = []
    room = size
    for name in names:
        with (folder / name).open("rb") as file:
            while True:
                content = file.read(room)
                batch.append((name, content))
                room -= len(content)
                if room > 0:
                    break  # the end of this file
                yield batch
                batch, room = [], size
    if batch:
        yield batch


class Arrival:
    """Takes the parts of a folder beside its files, and puts them in place when all have come.

    Args:
        folder: The folder here, made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_STAGING}.*"):
            if not Path(f"/proc/{left.name.split('.')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
        self._staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING}.{os.getpid()}.", dir=folder))

    def take(self, batch: Sequence[Part]) -> None:
        """Take parts, in the order in which they were sent."""
        for name, content in batch:
            path = self._staging / name
            if not path.resolve().is_relative_to(self._staging.resolve()):
                raise ValueError(f"{name} lies outside of the folder that is sent")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)

    def commit(self, there: Entries) -> None:
        """Put everything in place, and remove checkpoints that are no longer there."""
        if FINISHED not in there:
            (self._folder / FINISHED).unlink(missing_ok=True)
        for path in self._staging.rglob("*"):
            name = path.relative_to(self._staging).as_posix()
            if name in there:
                os.utime(path, ns=(there[name][1], there[name][1]))
            _sync(path)
        staged = [path.relative_to(self._staging) for path in self._staging.rglob("*") if path.is_file()]
        last = [path for path in staged if path.as_posix() == FINISHED]
        for path in staged:
            if path.parts[0] != CHECKPOINTS and path not in last:
                self._place(path)
        self._place_checkpoints()
        self._place_links(there)
        self._remove_checkpoints(there)
        for path in last:
            self._place(path)
        _sync(self._folder)
        self.drop()

    def drop(self) -> None:
        """Forget what has come."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _place(self, name: Path) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (self._staging / name).replace(target)

    def _place_checkpoints(self) -> None:
        source, target = self._staging / CHECKPOINTS, self._folder / CHECKPOINTS
        for path in source.iterdir() if source.is_dir() else ():
            target.mkdir(exist_ok=True)
            shutil.rmtree(target / path.name, ignore_errors=True)
            path.replace(target / path.name)
        if target.is_dir():
            _sync(target)

    def _place_links(self, there: Mapping[str, tuple[int, int, str]]) -> None:
        for name, (_, _, link) in there.items():
            path = self._folder / name
            if link and not (path.is_symlink() and str(path.readlink()) == link):
                path.parent.mkdir(parents=True, exist_ok=True)
                made = self._staging / "link"
                made.symlink_to(link)
                made.replace(path)

    def _remove_checkpoints(self, there: Mapping[str, tuple[int, int, str]]) -> None:
        kept = {name.split("/")[1] for name in there if name.startswith(f"{CHECKPOINTS}/")}
        folder = self._folder / CHECKPOINTS
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in kept and not path.name.startswith("."):
                path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
