"""Errors with an answer: a line of text that says what to do, and an exit code for each kind."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EtudeError(Exception):
    """An error whose message says what is wrong, where, and what to do. It is shown without a traceback."""

    exit_code = 1


class ConfigurationError(EtudeError):
    """The configuration asks for something that does not exist or does not fit together."""

    exit_code = 78


class DataError(EtudeError):
    """A data file is missing, unreadable, misaligned or empty."""

    exit_code = 65


class MemoryExhaustedError(EtudeError):
    """The machine or its GPU has no more memory."""

    exit_code = 71


class FolderInUseError(EtudeError):
    """Another process is working in the run's folder."""

    exit_code = 73


class StorageError(EtudeError):
    """A file could not be used: the disk is full or read-only, or a folder is not as it should be."""

    exit_code = 74


class NonFiniteError(EtudeError):
    """A loss or gradient became infinite or not a number."""

    exit_code = 1


class DefectError(EtudeError):
    """An unexpected error: a defect of etude, whose traceback is in a file."""

    exit_code = 70


DEBUG = "ETUDE_DEBUG"
"""Environment variable that, set to 1, shows the traceback of every error."""

_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Storage size calculation overflowed",
    "integer multiplication overflow",
)
_REQUESTED = re.compile(r"tried to allocate (\d[\d.]* \w+)", re.IGNORECASE)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a failed allocation, in Python or in torch, into one line.

    Raises:
        MemoryExhaustedError: If memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error)  # torch has its own class for GPUs alone, which is a RuntimeError like those of CPUs
        if not isinstance(error, MemoryError) and not any(phrase in message for phrase in _PHRASES):
            raise
        request = _REQUESTED.search(message)
        raise MemoryExhaustedError(
            f"out of memory{f' ({request[1]} more were asked for)' if request else ''}; a training takes less, and learns the "
            "same, with trainer.micro_batches=2 or more; otherwise write a smaller batch, data.max_length or model"
        ) from error


_CONDITIONS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE),
    }
)
"""Errors of an operating system about the state of a disk or folder, which are not defects."""


@contextmanager
def defects(folder: Path | None = None) -> Iterator[None]:
    """Turn unexpected errors into one line, and write their traceback to a file.

    Args:
        folder: Folder of that file, such as the run's; None, or if that fails: the folder of temporary files.

    Raises:
        StorageError: If the operating system refused the use of a file.
        DefectError: For any other error that is not an `EtudeError`.
    """
    try:
        yield
    except (EtudeError, BrokenPipeError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _CONDITIONS:
            raise StorageError(f"{error.filename or 'a file'}: {error.strerror}") from error
        reason = " ".join(str(error).split())
        shortened = reason if len(reason) <= 200 else f"{reason[:199]}…"
        raise DefectError(
            f"nothing in etude foresaw this ({type(error).__name__}: {shortened}); {_kept_traceback(error, folder)}; please "
            "report it"
        ) from error


def _kept_traceback(error: Exception, folder: Path | None) -> str:
    """Write the traceback of an error to a file, and return words about where it is."""
    text = "".join(traceback.format_exception(error))
    for place in (folder, None) if folder else (None,):
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=place, prefix="etude-traceback-", suffix=".txt", encoding="utf-8", delete=False
            ) as file:
                file.write(text)
        except (OSError, UnicodeEncodeError):
            continue
        return f"the traceback is in {file.name}"
    return f"{DEBUG}=1 shows the traceback"


def debugging() -> bool:
    """Return whether tracebacks are to be shown."""
    return os.environ.get(DEBUG, "") not in ("", "0")
