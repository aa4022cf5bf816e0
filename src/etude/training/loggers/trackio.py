"""Trackio, Hugging Face's local tracker: `trackio show` opens its page, `trackio sync` copies it to a Space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from etude.extras import installed
from etude.runs.saved_run import SavedRun
from etude.training.loggers.base import TrackedRun, Tracker
from etude.training.loggers.mirror import Ending, Entry, Mirror, Unsent


class TrackioMirror(Mirror):
    """One run of Trackio in its SQLite file, which is in Trackio's own folder (TRACKIO_DIR).

    Rows are written by Trackio's storage and not by `trackio.log`, which neither fails nor tells where a row is already.
    Each row has an id made of its step and its names, by which the database holds it once.
    """

    service = "Trackio"
    interval = 5.0

    def __init__(self, run: TrackedRun, project: str) -> None:
        """Remember the run; nothing is written before the first use."""
        super().__init__(run.folder)
        self._run = run
        self._project = project
        self._last: Unsent | None = None

    @property
    def name(self) -> str:
        """Trackio's project."""
        return self._project

    @property
    def version(self) -> str:
        """Id of the run in Trackio."""
        return self._run.id

    def connect(self) -> Iterable[Entry]:
        """Read which values Trackio has of the run."""
        from trackio.sqlite_storage import SQLiteStorage

        rows = SQLiteStorage.get_logs(self._project, run_id=self._run.id)
        return {(row["step"], name) for row in rows for name in row}

    def send(self, events: Sequence[Unsent], state: str = "running") -> None:
        """Add rows, and say what state the run is in."""
        from trackio.sqlite_storage import SQLiteStorage

        run, self._last = self._run, events[-1]
        SQLiteStorage.bulk_log(
            project=self._project,
            run=run.name,
            run_id=run.id,
            metrics_list=[dict(event.values) for event in events],
            steps=[event.step for event in events],
            timestamps=[_time(run.started + event.seconds) for event in events],
            log_ids=[self._row_id(event) for event in events],
            config=self._configuration(state),
        )

    @rank_zero_only
    def log_table(
        self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """Add a table."""
        if self._take(step or 0, key):
            from trackio import Table

            table = Table(columns=list(columns), data=[list(row) for row in data])
            cell = table._to_dict(self._project, self._run.name, step or 0)
            self.send([Unsent(step or 0, self._seconds, {key: cell})])

    @rank_zero_only
    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Add a page of HTML."""
        if self._take(step or 0, key):
            from trackio import Html

            html = Html(page, inject=False)
            html._save(self._project, self._run.name, step or 0)
            self.send([Unsent(step or 0, self._seconds, {key: html._to_dict()})])

    def conclude(self, ending: Ending) -> None:
        """Write the state of the run into its configuration. The last row goes with it, which the database has already."""
        if self._last is not None:
            self.send([self._last], ending)

    def _row_id(self, event: Unsent) -> str:
        words = [self._run.id, str(event.step), *sorted(event.values)]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]

    def _configuration(self, state: str) -> dict[str, Any]:
        run = self._run
        described = {"tags": ", ".join(run.tags), "notes": run.notes, "folder": str(run.folder), "state": state}
        own = {"_Created": _time(run.started), "_Group": run.group, "_Username": None}
        return {**{name: _plain(value) for name, value in run.parameters.items()}, **described, **own}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Trackio(Tracker):
    """Trackio, with one of its runs for each run folder.

    Attributes:
        project: Trackio's project.
    """

    project: str = "etude"

    def check(self) -> None:
        """Refuse it where Trackio is not installed.

        Raises:
            ConfigurationError: If it is not.
        """
        installed("trackio", "logger=trackio", "trackio")

    def open(self, run: SavedRun) -> TrackioMirror:
        """Return the logger of a run."""
        self.check()
        return TrackioMirror(TrackedRun.of(run), self.project)
