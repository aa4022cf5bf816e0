"""What can go wrong in a way that a person can mend: one line of text and an exit code for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class EtudeError(Exception):
    """An error whose message is the whole answer: what, where, and what to do. Shown without a traceback."""

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
    """Another process works in the run's folder."""

    exit_code = 73


class StorageError(EtudeError):
    """A file could not be written: the disk is full or read-only."""

    exit_code = 74


class NonFiniteError(EtudeError):
    """A loss or gradient became infinite or not a number."""

    exit_code = 1


_PHRASES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_ASKED = re.compile(r"tried to allocate (\d[\d.]* \w+)", re.IGNORECASE)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn an allocation that failed, in Python or in torch, into one line.

    Raises:
        MemoryExhaustedError: If memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)  # torch has a class of its own for GPUs alone: a RuntimeError, as is what it raises on a CPU
        if not isinstance(error, MemoryError) and not any(phrase in said for phrase in _PHRASES):
            raise
        asked = _ASKED.search(said)
        raise MemoryExhaustedError(
            f"out of memory{f' ({asked[1]} more were asked for)' if asked else ''}; a training takes less, and learns the "
            "same, with trainer.micro_batches=2 or more; otherwise write a smaller batch, data.max_length or model"
        ) from error
