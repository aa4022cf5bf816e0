"""Interface of trackers, which `logger=` chooses: services that show a run besides its own record."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning.pytorch.loggers import Logger

from etude.runs.saved_run import SavedRun


class Tracker(ABC):
    """Opens a run in a tracking service.

    `logger=` may also name a logger of Lightning's, which is constructed with `save_dir`, the run's folder.
    """

    @abstractmethod
    def open(self, run: SavedRun) -> Logger:
        """Return the logger of a run; a continued run stays the same run in the service."""
