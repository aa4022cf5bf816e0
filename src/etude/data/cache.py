"""The cache of prepared data: folders that are complete or absent, and memory-mapped arrays of unequal length."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from etude.atomic import sync
from etude.errors import DataError, StorageError
from etude.untrusted import ANY_SIZE, BrokenFileError, inside, opened, read_json

COMPLETE = "complete.json"
"""Written last: names every file with its size, time and hash."""

ADVICE = "remove the folder, and it is made again"
"""What to do about a broken file of the cache."""

logger = logging.getLogger(__name__)


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was when its folder was complete. One that has its size and time still is not read to be believed."""

    size: Annotated[int, Meta(ge=0)]
    mtime_ns: int
    sha256: str


class Ragged:
    """Arrays of unequal length in two files: their values in `STEM.values`, their offsets in `STEM.offsets.npy`.

    The values are memory-mapped, so that a corpus may be larger than memory and processes share its pages.

    Args:
        stem: Path of the files without their suffixes.
        dtype: Type of the values.
        rows: [N] indices of the arrays, in order; None: all arrays.

    Attributes:
        values: Values of all arrays of the file, one after the other.
        lengths: [N] length of each array.
    """

    def __init__(self, stem: Path, dtype: npt.DTypeLike, rows: npt.NDArray[np.int64] | None = None) -> None:
        self.stem = stem
        self.rows = rows
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._offsets = _open_offsets(Path(f"{stem}.offsets.npy"))
        size = _size_of_values(Path(f"{stem}.values"), self._offsets, self.dtype)
        # An empty file cannot be mapped.
        mapped = np.memmap(f"{stem}.values", self.dtype, mode="r", shape=(size,)) if size else np.zeros(0, self.dtype)
        self.values: npt.NDArray[Any] = np.asarray(mapped)
        lengths = np.diff(self._offsets)
        self.lengths: npt.NDArray[np.int64] = lengths if rows is None else lengths[rows]

    def only(self, rows: npt.NDArray[np.int64]) -> Ragged:
        """Return some of the arrays, in the given order."""
        return Ragged(self.stem, self.dtype, rows if self.rows is None else self.rows[rows])

    def pieces(self, size: int) -> Iterator[npt.NDArray[Any]]:
        """Yield the values of all arrays of the file, at most `size` at a time.

        They are read and not mapped: a page that was mapped counts as this process's memory until another one needs it.
        """
        with Path(f"{self.stem}.values").open("rb") as file:
            while len(piece := np.fromfile(file, self.dtype, size)):
                yield piece

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} arrays")
        index %= len(self)
        if self.rows is not None:
            index = int(self.rows[index])
        return self.values[self._offsets[index] : self._offsets[index + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path, not the content: another process maps the same files."""
        return (Ragged, (self.stem, self.dtype, self.rows))


def _open_offsets(path: Path) -> npt.NDArray[np.int64]:
    try:
        offsets: npt.NDArray[np.int64] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise BrokenFileError(path, f"is not an array ({' '.join(str(error).split())})", ADVICE) from error
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        raise BrokenFileError(path, "is not a list of offsets", ADVICE)
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
        raise BrokenFileError(path, "its offsets do not ascend from 0", ADVICE)
    return offsets


def _size_of_values(path: Path, offsets: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> int:
    """Return how many values there are."""
    size = int(offsets[-1])
    with opened(path, ADVICE, ANY_SIZE) as file:
        found = os.fstat(file.fileno()).st_size
    if found != size * dtype.itemsize:
        raise BrokenFileError(path, f"has {found:,} bytes; its offsets need {size * dtype.itemsize:,}", ADVICE)
    return size


class TextColumn(Sequence[str]):
    """Memory-mapped texts.

    Args:
        content: UTF-8 bytes of each row.
        rows: [N] row of each example; None: example i is row i.
    """

    def __init__(self, content: Ragged, rows: npt.NDArray[np.int64] | None = None) -> None:
        self.content = content
        self.rows = rows

    def only(self, rows: npt.NDArray[np.int64]) -> TextColumn:
        """Return the texts of some examples, in the given order."""
        return TextColumn(self.content, rows if self.rows is None else self.rows[rows])

    def __len__(self) -> int:
        return len(self.content if self.rows is None else self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[example] for example in range(*index.indices(len(self)))]
        row = index if self.rows is None else int(self.rows[index])
        return self.content[row].tobytes().decode("utf-8")


class TextColumns(Mapping[str, TextColumn]):
    """The texts of a split as read: `texts[field][example]` is a string."""

    def __init__(self, columns: Mapping[str, TextColumn]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, field: str) -> TextColumn:
        return self._columns[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def cached(root: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Return a complete folder `root/key`, building it if it is absent, or anything in it is not what was written.

    It is built in a temporary folder beside it, synced to the disk, and renamed. Of two processes that build it at once,
    the first to finish wins and the other discards its own.

    Args:
        root: Folder of such folders; made if absent.
        key: Name of the folder: equal keys mean equal content.
        build: Function that fills an empty folder.

    Raises:
        StorageError: If the folder cannot be written.
    """
    place = root / key
    if _complete(place):
        return place
    with _writing(place):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as temporary:
            built = Path(temporary) / key
            built.mkdir()
            build(built)
            _seal(built)
            _publish(built, place)
    return place


def continued(root: Path, key: str, build: Callable[[Path, Path], None]) -> Path:
    """Return a complete folder as `cached` does; but a process that is killed leaves what it built, and the next goes on.

    Of two processes that build it at once, one waits for the other.

    Args:
        root: Folder of such folders; made if absent.
        key: Name of the folder: equal keys mean equal content.
        build: Function that fills a folder, the first, or goes on with what an earlier process left in it. The second is
            for what only a process that goes on needs.

    Raises:
        DataError: What `build` raises; nothing is then left.
        StorageError: If the folder cannot be written; what is on the disk is then left.
    """
    place, growing = root / key, root / f".growing-{key}"
    if _complete(place):
        return place
    with _writing(place):
        root.mkdir(parents=True, exist_ok=True)
        with _alone(growing):
            if not _complete(place):
                _grow(growing, key, build)
                _publish(growing / key, place)
            shutil.rmtree(growing)
    return place


def _grow(growing: Path, key: str, build: Callable[[Path, Path], None]) -> None:
    """Build a folder inside of one that outlives a kill."""
    content = growing / key
    try:
        content.mkdir(exist_ok=True)
        (content / COMPLETE).unlink(missing_ok=True)
        build(content, growing)
        _seal(content)
    except BrokenFileError as error:
        logger.warning("%s", error)
        _empty(growing)
        content.mkdir()
        build(content, growing)
        _seal(content)
    except DataError:
        shutil.rmtree(growing)
        raise


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _publish(built: Path, place: Path) -> None:
    """Give a sealed folder its name, in place of a broken one, unless another process was first."""
    with _locked(place.parent):
        if _complete(place):
            return
        if place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".building-") as temporary:
                place.rename(Path(temporary) / "broken")
        built.rename(place)
        sync(place.parent)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turn an error of the file system into one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {place}: {error.strerror or error}; make room, or give another folder by paths.cache=FOLDER"
        ) from error


def _seal(folder: Path) -> None:
    """Sync all files to the disk, then write the list of them that marks the folder as complete."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    sealed = {path.relative_to(folder).as_posix(): msgspec.to_builtins(_state(path)) for path in files}
    (folder / COMPLETE).write_text(json.dumps(sealed, indent=1), encoding="utf-8")
    for path in (folder / COMPLETE, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync(path)


def _complete(folder: Path) -> bool:
    """Whether the folder has every file that it had when it was sealed, as it was then."""
    seal = folder / COMPLETE
    try:
        sealed = read_json(seal, dict[str, _Sealed], ADVICE)
        return all(_is_unchanged(inside(folder, name, seal, ADVICE), was) for name, was in sealed.items())
    except (OSError, BrokenFileError):
        return False


def _is_unchanged(path: Path, was: _Sealed) -> bool:
    """Whether a file is as it was; a copy has another time, and is read."""
    with opened(path, ADVICE, ANY_SIZE) as file:
        now = os.fstat(file.fileno())
        if now.st_size != was.size:
            return False
        return now.st_mtime_ns == was.mtime_ns or hashlib.file_digest(file, "sha256").hexdigest() == was.sha256


def _state(path: Path) -> _Sealed:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        now = os.fstat(file.fileno())
    return _Sealed(now.st_size, now.st_mtime_ns, digest)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process at a time rename a folder; the system releases the lock of a process that dies."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes out of it; the system releases the lock of a process that dies."""
    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _lock(descriptor, folder)
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                yield
                return
            # Whoever had the lock has removed this folder.
        finally:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("another process prepares the same data; waiting for it (%s)", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
