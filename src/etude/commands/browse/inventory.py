"""All runs and sweeps in a folder, and what in it is neither."""

from __future__ import annotations

import gc
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from etude.errors import DataError
from etude.runs.folder import CONFIGURATION
from etude.runs.lock import holder
from etude.runs.run_row import RunRow
from etude.sweeps.progress import best, read_states
from etude.sweeps.sweep_documents import MEMBER, SWEEP, SweepDocument, read_member, read_sweep

_ENDED = ("finished", "pruned")


@dataclass(frozen=True)
class SweepRow:
    """A sweep as a row beside its members.

    Attributes:
        path: Its folder.
        name: Its folder relative to that of all runs.
        document: What it was begun with.
        members: Its members that have begun.
        planned: How many members it has so far, begun or not.
        state: `running` while a process runs it, `finished` once all members have ended, else `interrupted`.
    """

    path: Path
    name: str
    document: SweepDocument
    members: Sequence[RunRow]
    planned: int
    state: str

    @property
    def score(self) -> float | None:
        """The best score of its members; None where they are judged by different ones."""
        known = [row.score for row in self.members if row.metric == self.document.metric and row.score is not None]
        return best(known, self.document.mode)

    def field(self, key: str) -> Any:
        """Return what a key means of a sweep as a whole; None for all that only its members have."""
        ended = sum(row.state in _ENDED for row in self.members)
        known: dict[str, Any] = {
            "run": self.name,
            "folder": str(self.path),
            "experiment": self.name.rpartition("/")[0],
            "sweep": self.name.rpartition("/")[2],
            "kind": "sweep",
            "state": self.state,
            "metric": self.document.metric,
            "score": self.score,
            "reason": f"{ended} of {self.planned} members have ended",
            "written": max((row.written for row in self.members), default=self.path.stat().st_mtime),
        }
        if key in ("seconds", "tokens", "energy_joules", "flops"):
            amounts = [amount for row in self.members if (amount := row.field(key)) is not None]
            return sum(amounts) if amounts else None
        tasks = {row.task for row in self.members}
        return (tasks.pop() if len(tasks) == 1 else None) if key == "task" else known.get(key)


@dataclass
class Inventory:
    """What is in the folder of all runs.

    Attributes:
        outputs: The folder.
        runs: The runs, members of sweeps among them, by name.
        sweeps: The sweeps, by name.
        problems: A line for each folder that could not be read, or is no run.
    """

    outputs: Path
    runs: list[RunRow] = dataclass_field(default_factory=list)
    sweeps: list[SweepRow] = dataclass_field(default_factory=list)
    problems: list[str] = dataclass_field(default_factory=list)

    def look_into(self, folder: Path) -> bool:
        """Read what is in a folder, and return whether there was a run or a sweep, whole or not."""
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        names = {entry.name for entry in found}
        if CONFIGURATION in names:
            self._take_run(folder)
            return True
        if SWEEP in names:
            self._take_sweep(folder)
            return True
        inside = [entry for entry in found if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")]
        empty = [Path(entry.path) for entry in inside if not self.look_into(Path(entry.path))]
        if folder != self.outputs and len(empty) == len(inside):
            return False
        self.problems += [f"{path} is no run: it has no {CONFIGURATION}" for path in empty]
        return True

    def _take_run(self, folder: Path, sweep: str = "", failed: Container[int] = ()) -> RunRow | None:
        """Read a run; `failed` has the numbers of the members that its sweep has given up."""
        try:
            row = RunRow.read(folder, self.outputs, sweep)
            if failed and row.state == "interrupted":
                row = _given_up(row, failed)
        except DataError as error:
            self.problems.append(str(error))
            return None
        self.runs.append(row)
        return row

    def _take_sweep(self, folder: Path) -> None:
        try:
            document = read_sweep(folder)
        except DataError as error:
            self.problems.append(str(error))
            document = None
        planned = sorted(path.parent for path in folder.glob(f"*/{MEMBER}"))
        failed = {number for number, member in read_states(folder).items() if member.get("state") == "failed"}
        begun = [path for path in planned if (path / CONFIGURATION).is_file()]
        rows = [row for path in begun if (row := self._take_run(path, folder.name, failed)) is not None]
        if document is None:
            return
        ended = len(rows) == len(planned) and all(row.state in _ENDED for row in rows)
        state = "running" if holder(folder) is not None else "finished" if ended else "interrupted"
        name = folder.relative_to(self.outputs).as_posix()
        self.sweeps.append(SweepRow(folder, name, document, rows, len(planned), state))


def read_inventory(outputs: Path) -> Inventory:
    """Read everything below a folder; a folder that does not exist has nothing in it."""
    inventory = Inventory(outputs)
    if outputs.is_dir():
        with _without_collection():
            inventory.look_into(outputs)
    return inventory


@contextmanager
def _without_collection() -> Iterator[None]:
    """Hold back the collection of cycles: what is read has none, and looking for them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _given_up(row: RunRow, failed: Container[int]) -> RunRow:
    """Return a member that its sweep gave up as one that failed: a process that was killed cannot say so itself."""
    member = read_member(row.path)
    if member.number not in failed:
        return row
    reason = member.attempts[-1].reason if member.attempts else "its sweep has given it up"
    return replace(row, state="failed", reason=reason)
