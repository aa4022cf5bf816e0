"""A lock on a run's folder, so that one process uses it at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from etude.atomic import storage_errors
from etude.errors import FolderInUseError

PATIENCE = 5.0
"""Seconds to wait for a lock whose holder has ended. A child that the holder forked last releases it sooner than that."""


class RunLock:
    """Holds a run's folder while a `with` block runs: `with RunLock(run): …`.

    The kernel releases the lock however the process ends. Forked children (data workers) do not hold it; a started process
    does if it inherits the descriptor: `Popen(…, pass_fds=[lock.fileno()])`.

    Args:
        run: The run's folder, or a sweep's.
        kind: `run` or `sweep`, for messages.
    """

    def __init__(self, run: Path, kind: str = "run") -> None:
        self.run = run
        self._kind = kind
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            FolderInUseError: If another process holds it; the message names that process.
            StorageError: If the folder cannot be written.
        """
        with storage_errors(self.run / ".lock"):
            self._descriptor = os.open(self.run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take(self._descriptor)
            except BaseException:
                self._close()
                raise
        os.register_at_fork(after_in_child=self._close)
        return self

    def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not _locked(descriptor):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            if time.monotonic() > deadline or not _has_ended(holder):
                raise FolderInUseError(
                    f"{self.run} is in use by {f'process {holder}' if holder else 'another process'}; "
                    f"wait until it has ended, or give this {self._kind} a name of its own: {self._kind}.name=NAME"
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock. The file stays: after removing it, two processes could lock two files of the same name."""
        self._close()

    def fileno(self) -> int:
        """Return the descriptor that holds the lock.

        Raises:
            ValueError: If the lock is not held.
        """
        if self._descriptor is None:
            raise ValueError(f"the lock of {self.run} is not held")
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(folder: Path) -> int | None:
    """Return the process that holds the lock of a folder; None if none does."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0).decode(errors="replace").strip() or 0) or None
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return None


def _locked(descriptor: int) -> bool:
    """Try to take the lock, and return whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_ended(holder: str) -> bool:
    """Return whether the process with this id has certainly ended; on a shared file system it may be another host's id."""
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        return False
    return False
