"""MLflow: without a server its runs are in an SQLite file beside the runs; `mlflow ui` shows it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from etude.extras import installed
from etude.runs.saved_run import SavedRun
from etude.training.loggers.base import TrackedRun, Tracker
from etude.training.loggers.mirror import Ending, Entry, ScalarMirror, Unsent

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow"
"""Names of the file and of the folder of artifacts, both in the folder of all runs, where no server is configured."""

URI = "MLFLOW_TRACKING_URI"
"""MLflow's variable for where its runs are."""

ID = "etude.id"
"""Tag by which a continued run is found again."""

MOST_METRICS = 1000
MOST_PARAMETERS = 100
LONGEST_PARAMETER = 6000
"""What MLflow takes in one request, and characters of a parameter."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Variables that are set unless they have a value: no telemetry, no lines for people, no minutes of waiting for a server."""

LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
"""Names of the logs of MLflow and of what it talks by. They say at length what is raised besides, and said in a line."""

STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
"""What MLflow calls the end of a run."""


class MLflowMirror(ScalarMirror):
    """One run of MLflow, found again by its tag `etude.id` when the run is continued.

    The time of a value is the begin of the run plus the seconds of training until then. A parameter of the machine that has
    changed when the run is continued keeps its first value: MLflow changes none.
    """

    service = "MLflow"
    interval = 5.0

    def __init__(self, run: TrackedRun, experiment: str, uri: str | None) -> None:
        """Remember the run; nothing is started before the first use.

        Args:
            run: The run.
            experiment: Name of MLflow's experiment.
            uri: Where MLflow's runs are; None: in `DATABASE`.
        """
        super().__init__(run.folder)
        self._run = run
        self._experiment = experiment
        self._uri = uri
        self._client: Any = None
        self._id = ""

    @property
    def name(self) -> str:
        """Name of MLflow's experiment."""
        return self._experiment

    @property
    def version(self) -> str:
        """MLflow's id of the run; empty before the first use."""
        return self._id

    def connect(self) -> Iterable[Entry]:
        """Find the run, or create it, and read which values it has."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # after the variables, which it reads

        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with _alone(self._run.outputs):  # a database is created by one process
            self._client = MlflowClient(self._uri or f"sqlite:///{self._run.outputs.resolve() / DATABASE}")
            self._id, new = self._find_or_create()
        if not new:
            self._client.update_run(self._id, status="RUNNING")
        self._log_parameters()
        return set() if new else set(self._entries())

    def send(self, events: Sequence[Unsent]) -> None:
        """Send scalars, many in a request."""
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(name), value, int((self._run.started + event.seconds) * 1000), event.step)
            for event in events
            for name, value in self.scalars(event).items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MOST_METRICS])

    @rank_zero_only
    def log_table(
        self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """Write a table as an artifact, in the form of MLflow's own tables."""
        path = f"{key}/step-{step or 0:08d}.json"
        if self._take(step or 0, path):
            from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

            self._client.log_dict(self._id, {"columns": list(columns), "data": [list(row) for row in data]}, path)
            known = json.loads(self._client.get_run(self._id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
            table = {"path": path, "type": "table"}
            if table not in known:
                self._client.set_tag(self._id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, table]))

    @rank_zero_only
    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Write a page of HTML as an artifact."""
        path = f"{key}.html"
        if self._take(step or 0, path):
            self._client.log_text(self._id, page, path)

    def conclude(self, ending: Ending) -> None:
        """Set the status of the run."""
        self._client.set_terminated(self._id, STATUS[ending])

    def is_held(self, step: int, name: str) -> bool:
        """Return whether MLflow holds a value, under the name that it has there."""
        return super().is_held(step, _name(name))

    def hold(self, step: int, names: Iterable[str]) -> None:
        """Remember that MLflow holds values, under the names that they have there."""
        super().hold(step, map(_name, names))

    def _find_or_create(self) -> tuple[str, bool]:
        """Return MLflow's id of the run, and whether the run is new there."""
        from mlflow.tracking.context.registry import resolve_tags

        run = self._run
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            place = None if self._uri else (run.outputs.resolve() / ARTIFACTS).as_uri()
            number = self._client.create_experiment(self._experiment, artifact_location=place)
        else:
            number = experiment.experiment_id
            found = self._client.search_runs([number], f"tags.`{ID}` = '{run.id}'", max_results=1)
            if found:
                return str(found[0].info.run_id), False
        tags = {ID: run.id, "folder": str(run.folder), "group": run.group, "mlflow.note.content": run.notes}
        tags |= {"tags": ", ".join(run.tags)} if run.tags else {}
        created = self._client.create_run(number, run_name=run.name, tags=resolve_tags(tags))
        return str(created.info.run_id), True

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params
        parameters = [
            Param(_name(name), _text(value)) for name, value in self._run.parameters.items() if _name(name) not in known
        ]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + MOST_PARAMETERS])

    def _entries(self) -> Iterator[Entry]:
        """Yield the values that MLflow has of the run; tables and pages are written again."""
        for name in self._client.get_run(self._id).data.metrics:
            for metric in self._client.get_metric_history(self._id, name):
                yield metric.step, name


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process does this in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{DATABASE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _name(name: str) -> str:
    """Return a name as MLflow takes it: letters, digits, and a few signs."""
    return re.sub(r"[^\w./ -]", "_", name)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST_PARAMETER else f"{text[: LONGEST_PARAMETER - 1]}…"


@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow, with one of its runs for each run folder.

    Attributes:
        experiment: MLflow's experiment; None: that of the run, such as `translation/demo`.
        uri: A server or a database; None: the variable MLFLOW_TRACKING_URI, else `mlflow.db` in the folder of all runs.
    """

    experiment: str | None = None
    uri: str | None = None

    def check(self) -> None:
        """Refuse it where MLflow is not installed.

        Raises:
            ConfigurationError: If it is not.
        """
        installed("mlflow", "logger=mlflow", "mlflow")

    def open(self, run: SavedRun) -> MLflowMirror:
        """Return the logger of a run."""
        self.check()
        tracked = TrackedRun.of(run)
        return MLflowMirror(tracked, self.experiment or tracked.experiment, self.uri or os.environ.get(URI))
