"""Files that go on growing after a kill: what a mark names is on the disk, and is checked before anything is added."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from etude.untrusted import BrokenFileError

AGAIN = "it is written again"
"""What happens to what an earlier process has left broken."""

READ_AT_ONCE = 1 << 20  # bytes
HEADER = 128
"""Bytes of the header of a `.npy` file of one axis, however long it is."""


class Grown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a file is on the disk: its first bytes, without a header that only its end decides."""

    size: Annotated[int, Meta(ge=0)]
    sha256: str


Marks = Mapping[str, Grown]
"""Marks by the name of their file."""


class GrowingFile:
    """A file that bytes are added to.

    Args:
        path: The file.
        marks: Of an earlier process; where the file has none, it is begun anew.
        header: Bytes before the content, which the mark leaves out: `close` writes them again.

    Raises:
        BrokenFileError: If the file does not have what its mark says.
    """

    def __init__(self, path: Path, marks: Marks, header: bytes = b"") -> None:
        self.path = path
        self._header = len(header)
        self._digest = hashlib.sha256()
        mark = marks.get(path.name)
        if mark is not None and not path.is_file():
            raise BrokenFileError(path, "is missing", AGAIN)
        self._stream = path.open("wb" if mark is None else "r+b")
        self.size = 0
        if mark is None:
            self._stream.write(header)
        else:
            self._go_on(mark)

    def _go_on(self, mark: Grown) -> None:
        self._stream.seek(self._header)
        while self.size < mark.size and (part := self._stream.read(min(READ_AT_ONCE, mark.size - self.size))):
            self._digest.update(part)
            self.size += len(part)
        if self.size != mark.size or self._digest.hexdigest() != mark.sha256:
            self._stream.close()
            raise BrokenFileError(self.path, "is not what was marked as written", AGAIN)
        self._stream.seek(self._header + self.size)
        self._stream.truncate()

    def write(self, content: bytes) -> None:
        """Add bytes."""
        self._stream.write(content)
        self._digest.update(content)
        self.size += len(content)

    def mark(self) -> Grown:
        """Wait until all bytes are on the disk, and return what names them."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return Grown(self.size, self._digest.hexdigest())

    def close(self, header: bytes | None = None) -> None:
        """Close the file, with another header of the same length if one is given."""
        if header is not None:
            self._stream.seek(0)
            self._stream.write(header)
        self._stream.close()


class GrowingArray:
    """A `.npy` file of one axis that values are added to.

    Args:
        path: The file.
        dtype: Type of its values.
        marks: As in `GrowingFile`.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, marks: Marks) -> None:
        self.dtype = np.dtype(dtype)
        self._file = GrowingFile(path, marks, self._header(0))

    def _header(self, length: int) -> bytes:
        buffer = BytesIO()
        description = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(buffer, description)
        if buffer.tell() != HEADER:
            raise AssertionError(f"numpy's header of an axis has {buffer.tell()} bytes, not {HEADER}")
        return buffer.getvalue()

    def __len__(self) -> int:
        return self._file.size // self.dtype.itemsize

    def extend(self, values: npt.ArrayLike) -> None:
        """Add values."""
        self._file.write(np.asarray(values, self.dtype).tobytes())

    def mark(self) -> Marks:
        """Wait until all values are on the disk, and return what names them."""
        return {self._file.path.name: self._file.mark()}

    def close(self) -> None:
        """Close the file, which NumPy can then read."""
        self._file.close(self._header(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class RaggedWriter:
    """Writer of the files of `etude.data.cache.Ragged`; nothing of it stays in memory.

    Args:
        stem: Path of the files without their suffixes.
        dtype: Type of the values.
        marks: Of an earlier process that wrote the same, which is then continued; none: written anew.

    Raises:
        BrokenFileError: If a file does not have what its mark says.
    """

    def __init__(self, stem: Path, dtype: npt.DTypeLike, marks: Marks | None = None) -> None:
        marks = marks or {}
        self.dtype = np.dtype(dtype)
        self._values = GrowingFile(Path(f"{stem}.values"), marks)
        self._offsets = GrowingArray(Path(f"{stem}.offsets.npy"), np.int64, marks)
        if not len(self._offsets):
            self._offsets.extend([0])

    def append(self, values: Sequence[int] | bytes) -> None:
        """Write the next array."""
        self.extend([values if isinstance(values, bytes) else np.asarray(values, self.dtype).tobytes()])

    def extend(self, arrays: Sequence[bytes]) -> None:
        """Write the next arrays, each given as its bytes."""
        size = self.dtype.itemsize
        begin = self._values.size // size
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        self._values.write(b"".join(arrays))
        self._offsets.extend(begin + np.cumsum(lengths) // size)

    def mark(self) -> Marks:
        """Wait until everything is on the disk, and return what names it."""
        return {self._values.path.name: self._values.mark(), **self._offsets.mark()}

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._values.close()
        self._offsets.close()
