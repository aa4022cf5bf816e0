"""The record of a run: `metrics.jsonl`, one checksummed line per event. It is authoritative; dashboards mirror it.

A line is JSON, and ends with the CRC-32 of everything before its `check`:

    {"step": 50, "tokens": 204800, "seconds": 12.5, "values": {"train/loss": 6.25}, "check": "1c291ca3"}

Numbers survive bit for bit: Python writes the shortest decimal that reads back as the same double. JSON cannot represent
non-finite numbers; they are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, SupportsFloat
from zlib import crc32

import msgspec
from msgspec import Meta

from etude.atomic import storage_errors, sync
from etude.schema_errors import shown
from etude.untrusted import LINES, BrokenFileError, decode_json, inside, read_bytes

RECORD = "metrics.jsonl"
"""Name of the record in the run's folder."""

WALL_CLOCK = "speed/"
"""Prefix of the names of values that depend on the clock or the machine, and so differ between equal runs."""

Where = Callable[[], tuple[int, int, float]]
"""Returns the progress of a run: steps, tokens and seconds so far."""

_ADVICE = "put the file back from a copy, or start the run anew in another folder"
_NOT_FINITE = ("nan", "inf", "-inf")
_MARK = b', "check": "'
_END = b'"}'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """The values logged at one step of a run.

    Attributes:
        step: Number of optimizer steps done.
        tokens: Number of real tokens trained on so far.
        seconds: Seconds of training so far, over all sessions of the run.
        values: Logged values by name.
    """

    step: int
    tokens: int
    seconds: float
    values: Mapping[str, float]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of a line without its checksum."""

    step: Annotated[int, Meta(ge=0)]
    tokens: Annotated[int, Meta(ge=0)]
    seconds: float
    values: dict[str, int | float | str]


class _NumbersLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of a line whose values are all finite."""

    step: Annotated[int, Meta(ge=0)]
    tokens: Annotated[int, Meta(ge=0)]
    seconds: float
    values: dict[str, float]


class Record:
    """Appends events to a file, each atomically.

    An unfinished last line, left by a killed process, is removed when the record is opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the record at `path`, creating it if it does not exist.

        Raises:
            StorageError: If the file cannot be opened for writing.
            BrokenFileError: If the path is not a regular file, or links out of the run's folder.
        """
        self.path = inside(path.parent, path.name, path, _ADVICE)
        written = read_bytes(path, _ADVICE, LINES) if path.exists() else b""
        with storage_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            sync(path.parent)
        whole = written.rfind(b"\n") + 1
        if whole < len(written):
            _warn_torn(path, written.count(b"\n") + 1)
            self.cut(whole)

    def append(self, event: Event) -> None:
        """Write an event with a single system call.

        Raises:
            StorageError: If the line could not be written completely; no part of it stays in the file.
        """
        line = _encode(event)
        with storage_errors(self.path):
            before = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def position(self) -> int:
        """Return the size of the record after syncing it to disk; checkpoints store it for `cut`.

        Raises:
            StorageError: If the file cannot be synced.
        """
        with storage_errors(self.path):
            os.fsync(self._file)
        return os.fstat(self._file).st_size

    def cut(self, position: int) -> None:
        """Remove all events after a position, so that a continued run writes them again.

        Raises:
            BrokenFileError: If the file is shorter, or the position is inside a line.
            StorageError: If the file cannot be truncated.
        """
        size = os.fstat(self._file).st_size
        if position > size or (position and os.pread(self._file, 1, position - 1) != b"\n"):
            problem = f"has {size} bytes, and no line that ends at byte {position} as it had at the checkpoint"
            raise BrokenFileError(self.path, problem, _ADVICE)
        with storage_errors(self.path):
            os.ftruncate(self._file, position)
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read(path: Path) -> list[Event]:
    """Return the events of a record in order. An unfinished last line is skipped with a warning.

    Raises:
        BrokenFileError: If the file cannot be read, or a line is damaged.
    """
    content = read_bytes(inside(path.parent, path.name, path, _ADVICE), _ADVICE, LINES)
    *lines, torn = content.split(b"\n")
    if torn:
        _warn_torn(path, len(lines) + 1)
    return [_decode(line, path, number) for number, line in enumerate(lines, start=1)]


def read_values(path: Path) -> Iterator[tuple[int, int, float, Mapping[str, float]]]:
    """Yield step, tokens, seconds and values of each line, in a tenth of the time that `read` takes.

    A key that a line has twice, which no process of etude writes, is not noticed. An unfinished last line is skipped.

    Raises:
        BrokenFileError: If the file cannot be read, or a line is damaged.
    """
    content = read_bytes(inside(path.parent, path.name, path, _ADVICE), _ADVICE, LINES)
    decode = msgspec.json.Decoder(_NumbersLine).decode
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        start, _, rest = line.rpartition(_MARK)
        if rest != b"%08x" % crc32(start) + _END:
            raise _damaged(path, number)
        event: _NumbersLine | Event
        try:
            event = decode(start + b"}")
        except msgspec.MsgspecError:  # a number that is not finite, or something that is to be refused
            event = _decode(line, path, number)
        yield event.step, event.tokens, event.seconds, event.values


def read_some(path: Path, name: str) -> tuple[list[Event], Event | None]:
    """Return the events that have a value of a name, and the last event; other lines are not looked at, nor checked.

    Raises:
        BrokenFileError: If the file cannot be read, or one of these lines is damaged.
    """
    content = read_bytes(inside(path.parent, path.name, path, _ADVICE), _ADVICE, LINES)
    whole = content.rfind(b"\n") + 1
    key = json.dumps(name, ensure_ascii=False).encode() + b": "
    events: list[Event] = []
    number, end, found = 1, 0, content.find(key, 0, whole)
    while found >= 0:
        number += content.count(b"\n", end, found)
        end = content.find(b"\n", found)
        event = _decode(_line_that_ends(content, end), path, number)
        if name in event.values:
            events.append(event)
        found = content.find(key, end, whole)
    last = _line_that_ends(content, whole - 1) if whole else None
    return events, None if last is None else _decode(last, path, content.count(b"\n"))


def _line_that_ends(content: bytes, end: int) -> bytes:
    return content[content.rfind(b"\n", 0, end) + 1 : end]


def series(events: Iterable[Event], name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a value was logged, and its values."""
    points = [(event.step, event.values[name]) for event in events if name in event.values]
    return [step for step, _ in points], [value for _, value in points]


def comparable(event: Event) -> str:
    """Return an event as text without seconds and speeds, for comparison between runs.

    Texts are equal exactly where the bits are: 0.0 differs from -0.0, and nan equals nan.
    """
    values = {name: event.values[name] for name in sorted(event.values) if not name.startswith(WALL_CLOCK)}
    return json.dumps({"step": event.step, "tokens": event.tokens, "values": _json_numbers(values)})


def _encode(event: Event) -> bytes:
    content = {
        "step": event.step,
        "tokens": event.tokens,
        "seconds": event.seconds,
        "values": _json_numbers(event.values),
    }
    start = json.dumps(content, allow_nan=False, ensure_ascii=False)[:-1].encode()
    return start + _MARK + f"{crc32(start):08x}".encode() + _END + b"\n"


def _decode(line: bytes, path: Path, number: int) -> Event:
    where = f"{path}, line {number}"
    start, _, rest = line.rpartition(_MARK)
    if rest != f"{crc32(start):08x}".encode() + _END:
        raise _damaged(path, number)
    content = decode_json(start + b"}", _Line, where, _ADVICE)
    values: dict[str, float] = {}
    for name, value in content.values.items():
        if isinstance(value, str) and value not in _NOT_FINITE:
            raise BrokenFileError(where, f"values['{shown(name)}'] is a text, not a number", _ADVICE)
        values[name] = float(value) if isinstance(value, str) else value
    return Event(content.step, content.tokens, content.seconds, values)


def _damaged(path: Path, number: int) -> BrokenFileError:
    return BrokenFileError(f"{path}, line {number}", "is damaged: its check does not fit", _ADVICE)


def _json_numbers(values: Mapping[str, SupportsFloat]) -> dict[str, int | float | str]:
    """Return numbers of any library as JSON values; non-finite ones become strings."""
    numbers = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
    return {name: number if math.isfinite(number) else str(number) for name, number in numbers.items()}


def _warn_torn(path: Path, number: int) -> None:
    _log.warning("%s, line %d was left unfinished by a process that was stopped; it is dropped", path, number)
