"""Schemas of the files in a sweep's folder: `sweep.json`, and `member.json` in the folder of each run.

`sweep.json` says what the sweep was begun with, and stays as it is. A member's file says which run it is, and what became of
each attempt at it; how far the run is, its own files say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

import etude
from etude.atomic import write_json
from etude.config.trust import trusted
from etude.config.values import changes
from etude.runs.code_state import code, packages, sources
from etude.runs.documents import Count, Document
from etude.untrusted import inside, read_json

SWEEP = "sweep.json"
MEMBER = "member.json"

_ADVICE = "restore the sweep's folder from a copy, or begin another with sweep.name=NAME"


class CodeState(Document, frozen=True):
    """State of the code that the sweep was begun with.

    Attributes:
        commit: The commit; None without git.
        changes: Hash of what differs from the commit; None if nothing does.
        sources: Hash of the sources of etude and of each trusted package.
        packages: Versions of packages; None for those that are not installed.
    """

    commit: str | None
    changes: str | None
    sources: dict[str, str | None]
    packages: dict[str, str | None]

    @classmethod
    def now(cls) -> CodeState:
        """Return the state of the code now."""
        state = code(Path(etude.__file__).parent)
        hashes = {name: sources(name) for name in ("etude", *trusted())}
        return cls(commit=state["commit"], changes=state["changes"], sources=hashes, packages=packages())

    def drift(self) -> dict[str, str]:
        """Return what has changed since, by name; a commit that changes no file of a package changes no result."""
        now = {"sources": {name: sources(name) for name in self.sources}, "packages": packages()}
        return changes({"sources": self.sources, "packages": self.packages}, now)


class SweepDocument(Document, frozen=True):
    """`sweep.json`.

    Attributes:
        command: Words of the command line, from which secrets are removed.
        extra: The folder of the user's own configuration groups; None: none.
        identity: What makes it this sweep and no other: the space and how it is searched.
        metric: The score that its members are judged by; None if they are judged by several.
        mode: Whether the best score is the smallest or the largest.
        threads: Threads that compute in each member with one device: frozen, since their number changes the last bits.
        code: State of the code.
    """

    command: list[str]
    extra: str | None
    identity: dict[str, Any]
    metric: str | None
    mode: str
    threads: Annotated[int, Meta(ge=1)]
    code: CodeState


class Attempt(Document, frozen=True):
    """One try at a member that did not come to its end.

    Attributes:
        ended: When, in seconds since 1970.
        code: Exit code; negative: the number of the signal that killed it.
        reason: What it said.
        step: The step that it had saved last.
    """

    ended: float
    code: int
    reason: str
    step: Count


class MemberDocument(Document, frozen=True):
    """`member.json`.

    Attributes:
        number: Number of the member in the sweep.
        trial: Number of its trial: members that differ in nothing but their seed are one trial.
        stage: The stage that it belongs to; empty where the sweep has none.
        start: Number of the member that it starts from; None: of none.
        seed: The seed, where the sweep varies it for each trial.
        assignment: Values of the space's parameters.
        words: Words of a command line that make its configuration.
        config: The configuration that it was composed of, without secrets.
        attempts: Tries that failed.
    """

    number: Count
    trial: Count
    stage: str
    start: Count | None
    seed: int | None
    assignment: dict[str, bool | int | float | str | None]
    words: list[str]
    config: dict[str, Any]
    attempts: list[Attempt]


def read_sweep(folder: Path) -> SweepDocument:
    """Read a sweep's file.

    Raises:
        BrokenFileError: If it is missing or damaged.
    """
    return read_json(inside(folder, SWEEP, folder / SWEEP, _ADVICE), SweepDocument, _ADVICE)


def read_member(folder: Path) -> MemberDocument:
    """Read the file of a member in its run's folder.

    Raises:
        BrokenFileError: If it is missing or damaged.
    """
    return read_json(inside(folder, MEMBER, folder / MEMBER, _ADVICE), MemberDocument, _ADVICE)


def write_document(folder: Path, document: SweepDocument | MemberDocument) -> None:
    """Write a sweep's or a member's file.

    Raises:
        StorageError: If it cannot be written.
    """
    name = SWEEP if isinstance(document, SweepDocument) else MEMBER
    write_json(folder / name, document.plain())
