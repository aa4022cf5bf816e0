"""A member's place on a node of a Ray cluster.

Uses the standard library alone: Ray sends it to its nodes as it is here, so that a node which lacks etude, or has another
version of it, can say so.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.sweeps.launchers.member_process import MemberProcess
from etude.sweeps.launchers.travel import Arrival, Entries, Part, entries, parts

STOPPED = 128 + signal.SIGTERM
STORAGE = 74
"""Exit codes of a member that was stopped before it began, and of one whose folder cannot be written."""


class RayPlace:
    """An actor that holds the CPUs and GPUs of a member, starts its process, and moves its folder where no disk is shared."""

    def __init__(self) -> None:
        self._process: MemberProcess | None = None
        self._stopped = False
        self._arrival: Arrival | None = None
        self._leaving: Iterator[list[Part]] = iter(())

    def look(self, token: str, content: str) -> dict[str, Any]:
        """Say what there is on this node.

        Args:
            token: Path of a file that the sweep has written.
            content: What it wrote.

        Returns:
            The node's `host`, the `version` of etude (None without etude), and whether the disk is `shared`.
        """
        try:
            version: str | None = importlib.metadata.version("etude")
        except importlib.metadata.PackageNotFoundError:
            version = None
        try:
            shared = Path(token).read_text() == content
        except OSError:
            shared = False
        return {"host": socket.gethostname(), "version": version, "shared": shared}

    def run(self, job: Mapping[str, Any], environment: Mapping[str, str], directory: str) -> tuple[int, str]:
        """Run a member to its end.

        Returns:
            Exit code, negative for the signal that killed it, and what it said.
        """
        if self._stopped:
            return STOPPED, "stopped before it began"
        try:
            self._process = MemberProcess(job, environment, directory)
        except OSError as error:
            return STORAGE, f"{socket.gethostname()} cannot write {error.filename}: {error.strerror}"
        if self._stopped:
            self._process.send(signal.SIGTERM)
        ended = self._process.wait()
        assert ended is not None  # noqa: S101 (for type checkers: it was waited for)
        return ended

    def send(self, number: int) -> None:
        """Send a signal to the member's process."""
        self._stopped = True
        if self._process is not None:
            self._process.send(number)

    # The way of a folder

    def entries(self, folder: str, without: Sequence[str]) -> Entries:
        """Return what is in a folder; see `etude.sweeps.launchers.travel`."""
        return entries(Path(folder), without)

    def leave(self, folder: str, names: Sequence[str]) -> None:
        """Begin to send files of a folder."""
        self._leaving = parts(Path(folder), names)

    def parts(self) -> list[Part] | None:
        """Return the next parts of the files; nothing at their end; None if one of them has gone meanwhile."""
        try:
            return next(self._leaving, [])
        except FileNotFoundError:
            return None

    def arrive(self, folder: str) -> str:
        """Begin to take files of a folder; return why that cannot be."""
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._arrival = Arrival(Path(folder))
        except OSError as error:
            return f"{socket.gethostname()} cannot write {folder}: {os.strerror(error.errno or 0)}"
        return ""

    def take(self, batch: Sequence[Part]) -> None:
        """Take parts of files."""
        assert self._arrival is not None  # noqa: S101 (for type checkers: it arrives)
        self._arrival.take(batch)

    def commit(self, there: Entries) -> None:
        """Put the files in place."""
        assert self._arrival is not None  # noqa: S101 (for type checkers: it arrives)
        self._arrival.commit(there)

    def forget(self, folder: str) -> None:
        """Remove a folder that has been fetched."""
        shutil.rmtree(folder, ignore_errors=True)
