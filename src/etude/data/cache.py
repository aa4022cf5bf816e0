"""The cache of prepared data: folders that are complete or absent, and arrays of unequal length mapped into memory."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from etude.errors import StorageError

COMPLETE = "complete.json"
"""Written last: names every file with its size."""


class Ragged:
    """Arrays of unequal length in two files: `STEM.values`, all one after the other, and `STEM.offsets.npy`.

    The values are mapped into memory, so that a corpus larger than memory can be read and processes share its pages.

    Args:
        stem: Path of the files without their endings.
        dtype: The values' type.
        chosen: [N] which of the arrays, in this order; None: all.

    Attributes:
        values: [sum of all lengths] all values, chosen or not.
        lengths: [N] int64.
    """

    def __init__(self, stem: Path, dtype: npt.DTypeLike, chosen: npt.NDArray[np.int64] | None = None) -> None:
        self.stem = stem
        self.chosen = chosen
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._offsets: npt.NDArray[np.int64] = np.load(f"{stem}.offsets.npy", mmap_mode="r")
        # An empty file cannot be mapped.
        size = int(self._offsets[-1])
        mapped = np.memmap(f"{stem}.values", self.dtype, mode="r", shape=(size,)) if size else np.zeros(0, self.dtype)
        self.values: npt.NDArray[Any] = np.asarray(mapped)
        lengths = np.diff(self._offsets)
        self.lengths: npt.NDArray[np.int64] = lengths if chosen is None else lengths[chosen]

    def only(self, chosen: npt.NDArray[np.int64]) -> Ragged:
        """Return some of the arrays, in a given order."""
        return Ragged(self.stem, self.dtype, chosen if self.chosen is None else self.chosen[chosen])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} arrays")
        index %= len(self)
        if self.chosen is not None:
            index = int(self.chosen[index])
        return self.values[self._offsets[index] : self._offsets[index + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place, not the content: another process maps the same files."""
        return (Ragged, (self.stem, self.dtype, self.chosen))


class RaggedWriter:
    """Writes what `Ragged` reads, array by array; only the offsets stay in memory.

    Args:
        stem: Path of the files without their endings.
        dtype: The values' type.
    """

    def __init__(self, stem: Path, dtype: npt.DTypeLike) -> None:
        self.stem = stem
        self.dtype = np.dtype(dtype)
        self._stream = Path(f"{stem}.values").open("wb")  # noqa: SIM115 (closed by __exit__)
        self._offsets = array("q", [0])

    def append(self, values: Sequence[int] | bytes) -> None:
        """Write one more array."""
        content = values if isinstance(values, bytes) else np.asarray(values, self.dtype).tobytes()
        self._stream.write(content)
        self._offsets.append(self._offsets[-1] + len(content) // self.dtype.itemsize)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __enter__(self) -> RaggedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()
        if kind is None:
            np.save(f"{self.stem}.offsets.npy", np.frombuffer(self._offsets, np.int64))


class TextColumn(Sequence[str]):
    """Texts mapped into memory.

    Args:
        content: [rows] UTF-8 bytes.
        rows: [N] which row each example comes from; None: example i is row i.
    """

    def __init__(self, content: Ragged, rows: npt.NDArray[np.int64] | None = None) -> None:
        self.content = content
        self.rows = rows

    def only(self, chosen: npt.NDArray[np.int64]) -> TextColumn:
        """Return the texts of some examples, in a given order."""
        return TextColumn(self.content, chosen if self.rows is None else self.rows[chosen])

    def __len__(self) -> int:
        return len(self.content if self.rows is None else self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
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
    """Return a complete folder `root/key`, building it if it is absent or broken.

    It is built beside its place, written through to the disk, and renamed. Of two processes that build at once the
    first to end wins, and the other discards its own.

    Args:
        root: Folder of such folders; made if absent.
        key: Name of the folder: equal keys stand for equal content.
        build: Fills an empty folder.

    Raises:
        StorageError: If the folder cannot be written.
    """
    place = root / key
    if _complete(place):
        return place
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as temporary:
            built = Path(temporary) / key
            built.mkdir()
            build(built)
            _seal(built)
            with _locked(root):
                if not _complete(place):
                    if place.exists():
                        place.rename(Path(temporary) / "broken")
                    built.rename(place)
                    _sync(root)
    except OSError as error:
        raise StorageError(
            f"cannot write {place}: {error.strerror or error}; make room, or give another folder by paths.cache=FOLDER"
        ) from error
    return place


def _seal(folder: Path) -> None:
    """Write all files through to the disk, then the list of them that marks the folder as complete."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    for path in files:
        _sync(path)
    (folder / COMPLETE).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    for path in (folder / COMPLETE, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def _complete(folder: Path) -> bool:
    """Whether the folder has every file that it had when it was sealed, each of its size."""
    try:
        sizes = json.loads((folder / COMPLETE).read_bytes())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sync(path: Path) -> None:
    """Write a file or folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process at a time put a folder in its place; the system releases the lock of a process that dies."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
