"""Memory that runs out, of the machine or of a GPU: one line that says what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from etude.errors import MemoryExhaustedError

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
