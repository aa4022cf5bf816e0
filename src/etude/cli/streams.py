"""The standard streams: output for data alone, standard error for people, and what happens when one is broken."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, BinaryIO, TextIO

from etude.errors import ConfigurationError, StorageError

_IN, _OUT, _ERROR = 0, 1, 2


def open_streams() -> None:
    """Prepare the standard streams of this process.

    A failure to write to standard output ends in one line; a full or closed standard error ends nothing. Characters that
    the terminal's encoding lacks are escaped.

    Raises:
        StorageError: If standard output is closed.
    """
    closed = [number for number in (_IN, _OUT, _ERROR) if not _is_open(number)]
    for number in closed:
        # The lowest free number is this one. Otherwise the next file that is opened would get it, and be written into.
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number == _IN else os.O_WRONLY), True)
    sys.stderr = _text_stream(_BestEffort(_ERROR, "w", closefd=False), sys.stderr)
    sys.stdout = _text_stream(_Output(_OUT, "w", closefd=False), sys.stdout)
    if _OUT in closed:
        raise StorageError(
            "standard output is closed, and what this command writes goes there; add > FILE, or > /dev/null"
        )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _text_stream(raw: io.FileIO, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, encoding, errors="backslashreplace", line_buffering=isinstance(raw, _BestEffort) or raw.isatty()
    )


class _Output(io.FileIO):
    """A file descriptor for data: a failure is a `StorageError`, and the rest of the output is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            _drop(self.fileno())
            raise StorageError(f"cannot write to standard output: {error.strerror}") from error


class _BestEffort(io.FileIO):
    """A file descriptor for people: text that cannot be written is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def standard_input() -> BinaryIO:
    """Return the standard input.

    Raises:
        ConfigurationError: If it is closed.
    """
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed, and this command reads from it; add < FILE")
    return sys.stdin.buffer


@contextmanager
def data_stream() -> Iterator[TextIO]:
    """Reserve the standard output for the command's data; what libraries and child processes write there goes to stderr.

    The file descriptor itself is redirected, since native code and child processes do not use `sys.stdout`.
    """
    sys.stdout.flush()
    saved = os.dup(_OUT)
    os.dup2(_ERROR, _OUT)
    try:
        with redirect_stdout(sys.stderr), _data_file(saved) as data:
            yield data
    finally:
        sys.stderr.flush()
        os.dup2(saved, _OUT)
        os.close(saved)


def _data_file(descriptor: int) -> TextIO:
    """Return a UTF-8 file for a descriptor; bytes of a path that are not UTF-8 are written unchanged."""
    return io.TextIOWrapper(io.BufferedWriter(_Output(os.dup(descriptor), "w")), "utf-8", errors="surrogateescape")


def write_result(result: Any, data: TextIO) -> None:
    """Write the result of a command: a path as a line, a mapping as a line of JSON, text unchanged, nothing for None."""
    if isinstance(result, Mapping):
        data.write(json.dumps(result, ensure_ascii=False) + "\n")
    elif isinstance(result, os.PathLike):  # a path, or a run
        data.write(f"{os.fspath(result)}\n")
    elif isinstance(result, str):
        data.write(result)
    data.flush()


def drop_output() -> None:
    """Drop the rest of the output for a reader that has gone away, so that Python exits quietly."""
    _drop(_OUT)


def _drop(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
