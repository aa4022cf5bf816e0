"""What a person sees of a sweep while it runs: a table of its members in a terminal, elsewhere a line for each that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from etude.runs.folder import DATA
from etude.runs.reading import read_data
from etude.sweeps.engine import Engine, MemberEntry
from etude.sweeps.launchers.base import LOG
from etude.sweeps.progress import MemberState, Progress, RecordFollower, last_line
from etude.sweeps.space import Assignment, setting

REFRESH = 1.0
"""Seconds between two looks at the members' records."""

LAST_LINES = 5
"""Lines of its log that are shown of a member that failed."""

_STYLES: Mapping[MemberState, str] = {
    "running": "bold",
    "finished": "green",
    "pruned": "yellow",
    "rejected": "yellow",
    "failed": "red",
    "skipped": "red",
}
_MOST_ROWS = 24


class SweepDisplay:
    """Shows a sweep; pass `show` to the engine.

    Args:
        stream: Where; by default stderr, since stdout is for data.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True, force_jupyter=False)
        self._live: Live | None = None
        self._states: dict[int, MemberState] = {}
        self._attempts: dict[int, int] = {}
        self._shown = 0.0
        self._followers: dict[int, RecordFollower] = {}
        self._begun: dict[int, tuple[float, float]] = {}
        self._epochs: dict[int, int] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show the table while the block runs, where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as self._live:
            yield

    def show(self, engine: Engine) -> None:
        """Show what has changed."""
        changed = False
        for number, entry in list(engine.entries.items()):
            before = self._states.get(number)
            tries = len(entry.document.attempts)
            if entry.state == before and tries == self._attempts.get(number, tries):
                continue
            if before is not None and (entry.state != "running" or tries > self._attempts.get(number, tries)):
                self._say(engine, entry)
            if entry.state == "running":
                validation = entry.config.validate
                self._followers[number] = RecordFollower(entry.folder, validation.metric, validation.mode)
                self._begun[number] = (time.monotonic(), self._position(entry, self._followers[number].look()))
            self._states[number], self._attempts[number] = entry.state, tries
            changed = True
        if self._live is not None and (changed or time.monotonic() - self._shown > REFRESH):
            self._shown = time.monotonic()
            self._live.update(self._table(engine), refresh=True)

    def _say(self, engine: Engine, entry: MemberEntry) -> None:
        ended = sum(one.state not in ("waiting", "running", "stopped") for one in engine.entries.values())
        score = "" if entry.score is None else f"  {entry.config.validate.metric} {entry.score:.5g}"
        words = describe(entry.member.trial.assignment, entry.member.seed)
        best = best_entry(engine)
        leader = "" if best is None else f"; best {best.member.number:03d}: {best.score:.5g}"
        state = "failed, and is tried again" if entry.state == "waiting" else entry.state
        self._print(f"etude: {entry.member.number:03d} {state}{score}  {words}  ({ended} of {planned(engine)}{leader})")
        if entry.state in ("failed", "waiting"):
            self._print("".join(f"  | {line}\n" for line in last_lines(entry.folder / LOG)).rstrip("\n"))

    def _print(self, text: str) -> None:
        if text:
            self._console.print(text, markup=False)

    def _table(self, engine: Engine) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        metrics = {entry.config.validate.metric for entry in engine.entries.values()}
        for heading in ("member", "", "step", metrics.pop() if len(metrics) == 1 else "score", "left", "values"):
            table.add_column(heading, no_wrap=True)
        best = best_entry(engine)
        room = max(1, min(_MOST_ROWS, self._console.height - 3))  # besides heading, caption and the cursor's line
        for entry in _rows(list(engine.entries.values()), room):
            table.add_row(*self._row(entry, entry is best), style=_STYLES.get(entry.state, "dim"))
        counts = [entry.state for entry in engine.entries.values()]
        said = "  ".join(f"{counts.count(state)} {state}" for state in dict.fromkeys(counts))
        table.caption = f"{said}  of {planned(engine)}" + (f"; best {best.member.number:03d}" if best else "")
        return table

    def _row(self, entry: MemberEntry, leads: bool) -> Sequence[str]:
        now = self._followers[entry.member.number].look() if entry.state == "running" else None
        score = now.score if now else entry.score
        step = now.step if now else last_line(entry.folder)[0]
        return (
            f"{entry.member.number:03d}",
            entry.state,
            f"{step:,}" if step else "",
            ("" if score is None else f"{score:.5g}") + (" *" if leads else ""),
            self._left(entry, now) if now else "",
            describe(entry.member.trial.assignment, entry.member.seed),
        )

    def _left(self, entry: MemberEntry, now: Progress) -> str:
        """Return the time that a member still needs, by its speed in this session; empty before that is known."""
        begun, first = self._begun[entry.member.number]
        here = self._position(entry, now)
        if here <= first:
            return ""
        seconds = max(0.0, (time.monotonic() - begun) / (here - first) * (entry.config.budget.amount - here))
        hours, minutes = divmod(int(seconds) // 60, 60)
        return f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"

    def _position(self, entry: MemberEntry, now: Progress) -> float:
        """Return how far a member is, in the unit of its budget."""
        unit, number = entry.config.budget.unit, entry.member.number
        if unit != "epoch":
            return {"step": now.step, "token": now.tokens, "second": now.seconds}[unit]
        if number not in self._epochs and (entry.folder / DATA).exists():
            self._epochs[number] = read_data(entry.folder).steps_per_epoch
        return now.step / self._epochs[number] if number in self._epochs else 0.0


def planned(engine: Engine) -> int:
    """Return the number of members that the sweep will have."""
    seeds = len(engine.plan.settings.seeds) or 1
    return (
        max(engine.plan.settings.trials * seeds, len(engine.entries)) if engine.plan.searched else len(engine.entries)
    )


def best_entry(engine: Engine) -> MemberEntry | None:
    """Return the member with the best score; None where members are judged by different scores, or none has one."""
    scored = [entry for entry in engine.entries.values() if entry.score is not None]
    judged = {(entry.config.validate.metric, entry.config.validate.mode) for entry in engine.entries.values()}
    if not scored or len(judged) > 1:
        return None
    sign = -1.0 if scored[0].config.validate.mode == "max" else 1.0
    return min(scored, key=lambda entry: sign * float(entry.score or 0.0))


def describe(assignment: Assignment, seed: int | None) -> str:
    """Return what varies as words: `optimizer.lr=0.001 seed=2`."""
    parts = [f"{name}={setting(value)}" for name, value in assignment.items()]
    return " ".join([*parts, *([] if seed is None else [f"seed={seed}"])])


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log, none if it cannot be read."""
    try:
        return log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []


def _rows(entries: list[MemberEntry], room: int) -> list[MemberEntry]:
    """Return so many members by number: those that run, then the last that ended, then the next."""
    order = {"running": 0, "failed": 1, "skipped": 1, "waiting": 3, "stopped": 3}

    def key(entry: MemberEntry) -> tuple[int, int]:
        place, number = order.get(entry.state, 2), entry.member.number
        return place, number if place == order["waiting"] else -number

    chosen = sorted(entries, key=key)[:room]
    return sorted(chosen, key=lambda entry: entry.member.number)
