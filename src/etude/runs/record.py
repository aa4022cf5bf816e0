"""The record of a run: `metrics.jsonl`, one checked line for every event. It is the truth; dashboards mirror it.

A line is JSON, and ends with the CRC-32 of all that is before its own mark:

    {"step": 50, "tokens": 204800, "seconds": 12.5, "values": {"train/loss": 6.25}, "check": "1c291ca3"}

Numbers come back bit for bit: Python writes the shortest decimal that reads back as the same double. JSON has no word
for numbers that are not finite; they are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat
from zlib import crc32

from etude.atomic import storage_errors, sync_folder
from etude.errors import StorageError

RECORD = "metrics.jsonl"
"""Name of the record in the run's folder."""

WALL_CLOCK = "speed/"
"""Beginning of the names of values that depend on the wall clock, and differ between two equal runs."""

Where = Callable[[], tuple[int, int, float]]
"""Tells where a run is: steps, tokens and seconds so far."""

_MARK = b', "check": "'
_END = b'"}'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What was logged at one moment of a run.

    Attributes:
        step: Optimizer steps done.
        tokens: Real tokens trained on so far.
        seconds: Seconds of training so far, over all the times that the run was continued.
        values: Name of each value and its number.
    """

    step: int
    tokens: int
    seconds: float
    values: Mapping[str, float]


class Record:
    """Appends events to a file; each is whole on disk or not there at all.

    A line that a killed process left unfinished is cut off when the record is opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the record at `path`, which is made if it does not exist.

        Raises:
            StorageError: If the file cannot be opened for writing.
        """
        self.path = path
        with storage_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            sync_folder(path.parent)
            written = path.read_bytes()
        whole = written.rfind(b"\n") + 1
        if whole < len(written):
            _say_torn(path, written.count(b"\n") + 1)
            self.cut(whole)

    def append(self, event: Event) -> None:
        """Write one event by a single call of the operating system.

        Raises:
            StorageError: If the line could not be written whole; nothing of it is left in the file.
        """
        line = _encode(event)
        with storage_errors(self.path):
            before = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def position(self) -> int:
        """Return the bytes written, all of them safely on disk: what a checkpoint notes, and `cut` takes.

        Raises:
            StorageError: If the file cannot be brought to disk.
        """
        with storage_errors(self.path):
            os.fsync(self._file)
        return os.fstat(self._file).st_size

    def cut(self, position: int) -> None:
        """Forget every event after a position, so that a continued run writes them again.

        Raises:
            StorageError: If the file is shorter than that, or the position is inside a line, or it cannot be cut.
        """
        size = os.fstat(self._file).st_size
        if position > size or (position and os.pread(self._file, 1, position - 1) != b"\n"):
            raise StorageError(
                f"{self.path} has {size} bytes, and no line that ends at byte {position} as it had at the checkpoint; "
                "put the whole file back from a copy, or start the run anew in another folder"
            )
        with storage_errors(self.path):
            os.ftruncate(self._file, position)
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read(path: Path) -> list[Event]:
    """Return the events of a record in their order. A line left unfinished at the end is passed over, and said.

    Raises:
        StorageError: If the file cannot be read, or one of its lines is not what was written.
    """
    try:
        *lines, torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    if torn:
        _say_torn(path, len(lines) + 1)
    return [_decode(line, path, number) for number, line in enumerate(lines, start=1)]


def series(events: Iterable[Event], name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a value was logged, and the value at each."""
    found = [(event.step, event.values[name]) for event in events if name in event.values]
    return [step for step, _ in found], [value for _, value in found]


def comparable(event: Event) -> str:
    """Return everything in an event that two equal runs share, as text: without seconds and speeds.

    Text, so that it is equal exactly where the bits are: 0.0 differs from -0.0, and nan equals nan.
    """
    values = {name: event.values[name] for name in sorted(event.values) if not name.startswith(WALL_CLOCK)}
    return json.dumps({"step": event.step, "tokens": event.tokens, "values": _written(values)})


def _encode(event: Event) -> bytes:
    content = {
        "step": event.step,
        "tokens": event.tokens,
        "seconds": event.seconds,
        "values": _written(event.values),
    }
    start = json.dumps(content, allow_nan=False, ensure_ascii=False)[:-1].encode()
    return start + _MARK + f"{crc32(start):08x}".encode() + _END + b"\n"


def _decode(line: bytes, path: Path, number: int) -> Event:
    start, _, rest = line.rpartition(_MARK)
    if rest != f"{crc32(start):08x}".encode() + _END:
        raise StorageError(
            f"{path}, line {number} is damaged: its check does not fit; "
            "put the file back from a copy, or start the run anew in another folder"
        )
    content: dict[str, Any] = json.loads(start + b"}")
    values = {name: float(value) if isinstance(value, str) else value for name, value in content["values"].items()}
    return Event(content["step"], content["tokens"], content["seconds"], values)


def _written(values: Mapping[str, SupportsFloat]) -> dict[str, int | float | str]:
    """Turn numbers of any library into those of JSON."""
    numbers = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
    return {name: number if math.isfinite(number) else str(number) for name, number in numbers.items()}


def _say_torn(path: Path, number: int) -> None:
    _log.warning("%s, line %d was left unfinished by a process that was stopped; it is dropped", path, number)
