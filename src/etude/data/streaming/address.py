"""A folder on this machine, or anywhere that fsspec reaches, and the patience with one that does not answer."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from etude.errors import ConfigurationError, DataError, StorageError
from etude.signals import STOP

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds between two attempts: each is twice the one before."""

_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Address:
    """A folder whose files are copied from and to this machine.

    Args:
        root: A path, or an address such as `s3://bucket/folder`, `https://host/folder` or `hf://datasets/owner/name`.
        patience: Seconds for which an attempt that fails is made again.

    Attributes:
        local: The folder, if it is one of this machine; None otherwise.

    Raises:
        ConfigurationError: If fsspec knows no such protocol, or needs a package for it.
    """

    def __init__(self, root: str, patience: float = 600.0) -> None:
        self.root = str(Path(root).expanduser()) if root.startswith("~") else root.rstrip("/")
        self.patience = patience
        self._process = 0
        self.local = Path(self._base) if isinstance(self._connected(), LocalFileSystem) else None

    def _connected(self) -> fsspec.AbstractFileSystem:
        """Return the file system, connected in this process: threads of a connection do not survive a fork."""
        if self._process != os.getpid():
            try:
                self._files, self._base = url_to_fs(self.root, skip_instance_cache=True)
            except (ValueError, ImportError) as error:
                raise ConfigurationError(f"{self.root}: {' '.join(str(error).split())}") from error
            self._process = os.getpid()
        return self._files

    def of(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.root}/{name}"

    def find(self, name: str, target: Path) -> bool:
        """Copy a file to this machine, if there is one of this name; return whether there is.

        Raises:
            DataError: If the address has not answered for as long as the patience lasts.
            StorageError: If the copy cannot be written.
        """

        def copy(files: fsspec.AbstractFileSystem, place: str) -> bool:
            try:
                files.get_file(place, str(target))
            except FileNotFoundError:
                return False
            return True

        return self._patiently(name, copy)

    def get(self, name: str, target: Path) -> None:
        """Copy a file to this machine, as `find` does.

        Raises:
            DataError: If there is no such file, too.
        """
        if not self.find(name, target):
            raise DataError(f"{self.of(name)} is missing")

    def put(self, source: Path, name: str) -> None:
        """Copy a file of this machine there. In a folder of this machine it has its name only when it is whole.

        Raises:
            StorageError: If the address cannot be written.
        """

        def copy(files: fsspec.AbstractFileSystem, place: str) -> None:
            files.makedirs(place.rpartition("/")[0], exist_ok=True)
            if self.local is None:
                files.put_file(str(source), place)
            else:
                part = Path(f"{place}.{os.getpid()}.part")  # others may write the same
                files.put_file(str(source), str(part))
                part.replace(place)

        try:
            self._patiently(name, copy)
        except DataError as error:
            raise StorageError(f"cannot write {error}") from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._patiently(name, lambda files, place: files.rm_file(place))

    def _patiently(self, name: str, act: Callable[[fsspec.AbstractFileSystem, str], T]) -> T:
        """Return what an action on a file returns, which is tried again while the address does not answer."""
        began, wait = time.monotonic(), FIRST_WAIT
        while True:
            try:
                files = self._connected()
                return act(files, f"{self._base.rstrip('/')}/{name}")
            except _FINAL as error:
                raise DataError(f"{self.of(name)}: {_reason(error)}") from error
            except Exception as error:  # each file system has errors of its own
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise StorageError(f"no room for a copy of {self.of(name)}: {error.strerror}") from error
                self._process = 0  # connect anew
                waited = time.monotonic() - began
                if waited >= self.patience or STOP.is_set():
                    raise DataError(
                        f"{self.of(name)}: no answer for {waited:.0f} s ({_reason(error)}); the same command goes on from here"
                    ) from error
                if wait == FIRST_WAIT:
                    _log.warning(
                        "%s: no answer (%s); trying again for %.0f s", self.of(name), _reason(error), self.patience
                    )
            STOP.wait(min(wait, max(self.patience - (time.monotonic() - began), 0.0)))
            wait = min(2 * wait, LONGEST_WAIT)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the address, not the connection."""
        return (Address, (self.root, self.patience))


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
