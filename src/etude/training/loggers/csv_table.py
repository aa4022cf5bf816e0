"""The record of a run as a table of comma-separated values, for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from etude.runs.saved_run import SavedRun
from etude.training.loggers.base import Tracker
from etude.training.loggers.mirror import Entry, Mirror, Unsent

FOLDER = "csv"
"""Folder inside the run's folder; its file is Lightning's `metrics.csv`."""


class CsvMirror(Mirror):
    """Writes RUN/csv/metrics.csv by Lightning's logger: a row for each event, a column for each name.

    A continued run writes the file anew from its record.
    """

    service = "The table of logger=csv"
    name = FOLDER
    version = ""

    def __init__(self, folder: Path) -> None:
        """Remember the folder of the run."""
        super().__init__(folder)
        # Each call of `send` writes its rows at once.
        self._table = CSVLogger(folder, name=FOLDER, version="", flush_logs_every_n_steps=2**62)

    def connect(self) -> Iterable[Entry]:
        """Remove the table of an earlier process: Lightning's logger does not continue one."""
        (Path(self._table.log_dir) / "metrics.csv").unlink(missing_ok=True)
        return ()

    def send(self, events: Sequence[Unsent]) -> None:
        """Append rows."""
        for event in events:
            self._table.experiment.log_metrics(dict(event.values), event.step)
        self._table.experiment.save()


@dataclass(frozen=True)
class CsvTable(Tracker):
    """A table in the run's folder, csv/metrics.csv."""

    def open(self, run: SavedRun) -> CsvMirror:
        """Return the logger of a run."""
        return CsvMirror(run.path)
