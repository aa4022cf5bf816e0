"""The note that an attempt at a run leaves behind when an error ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etude.atomic import storage_errors, write_json
from etude.errors import EtudeError, StorageError
from etude.runs.documents import Failure
from etude.runs.folder import FAILURE


@contextmanager
def failure_noted(run: Path) -> Iterator[None]:
    """Write into a run's folder why the work inside the block failed; the note of an earlier attempt is removed first.

    A signal, which saves and can be continued, is no failure.

    Raises:
        StorageError: If the earlier note cannot be removed.
        EtudeError: What ended the work.
    """
    with storage_errors(run / FAILURE):
        (run / FAILURE).unlink(missing_ok=True)
    try:
        yield
    except EtudeError as error:
        # The disk may be what is wrong; then the error itself is what counts.
        with suppress(StorageError):
            write_json(run / FAILURE, Failure(code=error.exit_code, reason=str(error)).plain())
        raise
