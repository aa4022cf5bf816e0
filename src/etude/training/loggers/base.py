"""Interface of trackers, which `logger=` chooses: services that show a run besides its own record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lightning.pytorch.loggers import Logger

from etude.config.values import flat, without_secrets
from etude.runs.folder import IDENTITY
from etude.runs.saved_run import SavedRun


class Tracker(ABC):
    """Opens a run in a tracking service.

    `logger=` may also name a logger of Lightning's, which is constructed with `save_dir`, the run's folder.
    """

    @abstractmethod
    def open(self, run: SavedRun) -> Logger:
        """Return the logger of a run; a continued run stays the same run in the service."""

    def check(self) -> None:
        """Refuse a tracker that cannot work on this machine. Called before a run begins.

        Raises:
            ConfigurationError: If a package is missing, or an argument is wrong.
        """
        return


@dataclass(frozen=True)
class TrackedRun:
    """What trackers show of a run besides its record.

    Attributes:
        folder: Folder of the run.
        id: Id of the run, which stays the same when the run is continued.
        name: Name of the run; that of a sweep's member has the name of the sweep: `rates/003`.
        experiment: Name of its experiment, such as `translation/demo`.
        group: What it is shown with: its experiment, or its sweep, such as `translation/demo/rates`.
        tags: Its tags.
        notes: Its notes.
        parameters: Its configuration by dotted key, without secrets.
        metric: The metric of which a checkpoint is the best.
        outputs: Folder of all runs.
        started: When the run was begun, in seconds since 1970.
    """

    folder: Path
    id: str
    name: str
    experiment: str
    group: str
    tags: Sequence[str]
    notes: str
    parameters: Mapping[str, Any]
    metric: str
    outputs: Path
    started: float

    @classmethod
    def of(cls, run: SavedRun) -> Self:
        """Describe a run."""
        config, identity = run.config, run.identity()
        experiment = config.run.experiment or "run"
        sweep = (config.run.name or "").rpartition("/")[0]
        return cls(
            folder=run.path,
            id=identity,
            name=f"{sweep}/{run.name}" if sweep else run.name,
            experiment=experiment,
            group=f"{experiment}/{sweep}" if sweep else experiment,
            tags=config.run.tags,
            notes=config.run.notes,
            parameters=flat(without_secrets(config.values)),
            metric=config.validate.metric,
            outputs=config.paths.outputs,
            started=(run.path / IDENTITY).stat().st_mtime,
        )
