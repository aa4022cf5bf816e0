"""A sweep as its folder holds it: its members, how each went, and the best of them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from etude.errors import ConfigurationError
from etude.runs.documents import PRUNED
from etude.runs.folder import state
from etude.runs.lock import holder
from etude.runs.reading import read_conclusion
from etude.sweeps.progress import MemberState, Progress, progress, read_states
from etude.sweeps.sweep_documents import MEMBER, SWEEP, MemberDocument, SweepDocument, read_member, read_sweep


@dataclass(frozen=True)
class SavedMember:
    """A member and how it went.

    Attributes:
        path: Folder of its run.
        document: What it is.
        state: How it went, or how far it is.
        metric: The score that it is judged by.
        progress: Its steps, and the best of its validations.
    """

    path: Path
    document: MemberDocument
    state: MemberState
    metric: str
    progress: Progress

    @property
    def reason(self) -> str:
        """Why its last attempt failed; empty if none has, or if it has finished since."""
        failed = self.state in ("failed", "stopped", "waiting", "running") and self.document.attempts
        return self.document.attempts[-1].reason if failed else ""


class SavedSweep:
    """One sweep's folder.

    Attributes:
        path: The folder.
        document: What the sweep was begun with.
    """

    def __init__(self, path: Path, document: SweepDocument) -> None:
        self.path = path
        self.document = document

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of a sweep.

        Raises:
            BrokenFileError: If its file is missing or damaged.
        """
        return cls(Path(path), read_sweep(Path(path)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def folders(self) -> list[Path]:
        """Folders of the members."""
        return sorted(path.parent for path in self.path.glob(f"*/{MEMBER}"))

    @property
    def is_running(self) -> bool:
        """Whether a process runs it now."""
        return holder(self.path) is not None

    @property
    def members(self) -> list[SavedMember]:
        """The members by number, as they are now."""
        said, running = read_states(self.path), self.is_running
        members = [self._member(folder, said, running) for folder in self.folders]
        return sorted(members, key=lambda member: member.document.number)

    def _member(self, folder: Path, said: dict[int, dict[str, Any]], running: bool) -> SavedMember:
        document = read_member(folder)
        validate = document.config.get("validate", {})
        metric, mode = str(validate.get("metric")), str(validate.get("mode"))
        known = said.get(document.number, {}).get("state", "waiting")
        now: MemberState
        if state(folder) == "finished":
            now = "pruned" if read_conclusion(folder).ended.startswith(PRUNED) else "finished"
        elif known in ("failed", "skipped", "rejected") or (running and known == "running"):
            now = known
        else:
            now = "stopped" if state(folder) == "unfinished" else "waiting"
        return SavedMember(folder, document, now, metric, progress(folder, metric, mode))

    @property
    def finished(self) -> list[SavedMember]:
        """The members that came to their end, pruned or not."""
        return [member for member in self.members if member.state in ("finished", "pruned")]


def resolve_sweep(word: str, outputs: Path) -> Path:
    """Return the folder of an existing sweep.

    Args:
        word: A folder, `<experiment>/<name>` under `outputs`, the name alone, or `last`, the one that was begun last.
        outputs: Folder of all runs.

    Raises:
        ConfigurationError: If there is no such sweep, or several of the name; names the nearest ones.
    """
    for candidate in (outputs / word, Path(word).expanduser()):
        if (candidate / SWEEP).is_file():
            return candidate.resolve()
    every = sorted(_sweeps(outputs), key=lambda path: (path / SWEEP).stat().st_mtime)
    if word == "last" and every:
        return every[-1].resolve()
    named = [path for path in every if path.name == word]
    if len(named) == 1:
        return named[0].resolve()
    names = [path.relative_to(outputs).as_posix() for path in every]
    if not names:
        raise ConfigurationError(
            f"no sweep {word!r}, nor any other in {outputs}; start one with: etude sweep seed=1,2,3"
        )
    nearest = [path.relative_to(outputs).as_posix() for path in named] or difflib.get_close_matches(word, names, 3, 0.0)
    raise ConfigurationError(f"no sweep {word!r} here or in {outputs}; nearest: {', '.join(nearest)}")


def _sweeps(outputs: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(outputs):
        if SWEEP in files:
            yield Path(parent)
            folders.clear()
