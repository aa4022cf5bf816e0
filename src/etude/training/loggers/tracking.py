"""Loggers of a run's metrics: the local record, and Weights & Biases as its mirror.

`metrics.jsonl` is the truth. Events that a killed process did not send to W&B are sent from the record when the run is
continued, so that all local files of W&B together hold every event once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from etude.config.agent_words import started_by_agent
from etude.config.values import without_secrets
from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Event, Record, Where, read
from etude.runs.saved_run import SavedRun
from etude.training.loggers.base import Tracker

STEP = "trainer/global_step"
"""Lightning's name for the step in W&B, and the x-axis of its charts."""

MODES = ("online", "offline", "disabled")
INIT_TIMEOUT = 30.0
"""Seconds to wait for W&B's server when a run starts, before the run goes offline."""

FINISH_TIMEOUT = 30.0
"""Seconds to wait for the upload when a run ends; `wandb sync` uploads the rest."""

INSPECT_TIMEOUT = 120.0
"""Seconds that W&B may take to read one of its local files."""

Row = tuple[int, frozenset[str]]
"""A step, and the names of the metrics that were logged together at it."""

_log = logging.getLogger(__name__)


class RecordLogger(Logger):
    """Writes every metric that Lightning logs to the run's record.

    Hyperparameters are in the run's `config.yaml` and are not repeated. Only rank 0 writes.
    """

    def __init__(self, record: Record, where: Where) -> None:
        """Log to `record`, each event at the position that `where` returns."""
        super().__init__()
        self.record = record
        self._where = where

    @property
    def name(self) -> str:
        """Name of the record."""
        return self.record.path.stem

    @property
    def version(self) -> str:
        """Empty: a run has one record."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return str(self.record.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append an event. Its position is that of `where`, which counts optimizer steps; `step` is ignored.

        Raises:
            StorageError: If the event cannot be written.
        """
        self.record.append(Event(*self._where(), metrics))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds the configuration."""

    @rank_zero_only
    def close(self) -> None:
        """Close the record."""
        self.record.close()


class WeightsAndBiases(WandbLogger):
    """One run in W&B for one run folder, however often it is interrupted and continued.

    Wrap it in a `SafeLogger`: connecting can take `INIT_TIMEOUT`, and every call can fail.

    A killed process loses up to 32 KB of W&B's last values, some of them from before the checkpoint that the run continues
    from. On continuation, missing events are sent from the record, and the others are not repeated. Offline, each
    continuation has its own folder, `offline-run-<time>-<id>`. Together these folders hold every event once, with
    consecutive row numbers; `wandb sync` uploads all of them to the same run, in chronological order. Online, W&B continues
    the run itself; only the values of the last step it received may then appear twice, with the same numbers.
    """

    def __init__(self, run_folder: Path, run_id: str, mode: str | None, **arguments: Any) -> None:
        """Store the arguments of `wandb.init`; nothing is started before the first use."""
        super().__init__(save_dir=run_folder, id=run_id, log_model=False, **arguments)
        self._folder = run_folder
        self._mode = mode
        self._sent: set[Row] = set()
        self._complete_before = 0
        self._exit_code = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run in W&B, connected at the first use."""
        if self._experiment is None:
            files = sorted(self._folder.glob(f"wandb/*run-*-{self._id}/run-{self._id}.wandb"))
            self._experiment = self._connect()
            self._catch_up(files)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics or a table at a step; a second call with the same names and step is ignored."""
        _ = self.experiment
        self._send(metrics, step or 0)

    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Log a self-contained page of HTML."""
        import wandb

        self.log_metrics({key: wandb.Html(page, inject=False)}, step)

    def mark_stopped(self, number: int) -> None:
        """Tell W&B of a run of one of its sweeps that it is preempted: it will be handed to an agent again.

        SIGUSR1 alone says so, the warning of a scheduler. By SIGTERM and SIGINT W&B itself ends a run for good.
        """
        if number == signal.SIGUSR1 and started_by_agent() and self._experiment is not None:
            self._experiment.mark_preempting()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a fit or a test; a run that ends otherwise than by itself is not called finished."""
        super().finalize(status)
        self._exit_code = int(status != "success")

    def save(self) -> None:
        """Connect. Lightning calls this when a fit starts."""
        _ = self.experiment

    def close(self) -> None:
        """Finish the run in W&B for this process."""
        if self._experiment is not None:
            self._experiment.finish()

    def abandon(self) -> None:
        """Detach from W&B's service process, which would otherwise block or fail at exit if it is gone or hangs.

        A working service still writes and sends its data, even after the end of this process.
        """
        import wandb

        with suppress(Exception):
            wandb.teardown(self._exit_code)

    def _connect(self) -> Any:
        """Start the run online if configured and possible, else offline with a warning."""
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # without a network its error reports delay the exit
        import wandb

        if self._mode not in (None, "online"):
            return self._init(str(self._mode))
        try:
            if wandb.login(prompt=False, verify=False):
                return self._init("online")
            reason = "no key on this machine (WANDB_API_KEY, or `wandb login`)"
        except Exception as error:  # of any kind: offline remains possible
            wandb.teardown()  # the failed attempt still holds the run's id
            reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("W&B is offline: %s; upload later by `wandb sync %s/wandb/offline-run-*`", reason, self._folder)
        return self._init("offline")

    def _init(self, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT)
        arguments = {name: value for name, value in self._wandb_init.items() if value is not None}
        # `create_new`, since one process may have several runs: the members of a sweep.
        run = wandb.init(**{**arguments, "mode": mode, "reinit": "create_new", "settings": settings})
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _catch_up(self, files: Iterable[Path]) -> None:
        """Send events of the record that are missing in W&B's local files: an earlier process was killed before."""
        run: Any = self._experiment
        if run.disabled or not (self._folder / RECORD).exists():
            return
        if run.resumed:  # only online
            self._complete_before = int(run.summary.get(STEP, 0))
        elif run.offline:
            self._sent = {row for file in files for row in _rows(file)}
        for event in read(self._folder / RECORD):
            self._send({**event.values, "tokens": event.tokens, "seconds": event.seconds}, event.step)

    def _send(self, metrics: Mapping[str, Any], step: int) -> None:
        run: Any = self._experiment
        row = _row(step, metrics)
        if step < self._complete_before or row in self._sent:
            return
        # Online the server numbers the rows. Offline each file would start at 0, and hide rows of the previous file.
        number = len(self._sent) if run.offline else None
        run.log({**metrics, STEP: step}, step=number, commit=True)
        self._sent.add(row)


def _row(step: int, names: Iterable[str]) -> Row:
    """Return the key of a row in W&B's history, which lists a table as `name.path`, `name.size` and so on."""
    metrics = {name.partition(".")[0] for name in names if not name.startswith("_")}
    return step, frozenset(metrics - {STEP, "tokens", "seconds"})


def _rows(file: Path) -> set[Row]:
    """Return the rows in one of W&B's local files, up to where it is intact."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSPECT_TIMEOUT)
    records = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    items = [record["history"]["item"] for record in records if record.get("type") == "history"]
    return {_row(item[STEP], item) for item in items if STEP in item}


@dataclass(frozen=True)
class Wandb(Tracker):
    """Weights & Biases, with one W&B run per run folder: online with a key, offline without one.

    Attributes:
        project: W&B's project.
        entity: Person or team; None: that of the key.
        group: Name under which W&B groups runs.
        mode: `online`, `offline` or `disabled`; None: that of WANDB_MODE, else online if there is a key.
    """

    project: str = "etude"
    entity: str | None = None
    group: str | None = None
    mode: str | None = None

    def open(self, run: SavedRun) -> WeightsAndBiases:
        """Return the logger of a run.

        Raises:
            ConfigurationError: If the mode is unknown.
        """
        return wandb_logger(
            run_folder=run.path,
            run_id=run.identity(),
            name=run.name,
            tags=run.config.run.tags,
            notes=run.config.run.notes,
            config=dict(without_secrets(run.config.values)),
            project=self.project,
            entity=self.entity,
            group=self.group,
            mode=self.mode,
        )


def wandb_logger(
    run_folder: Path,
    run_id: str,
    name: str,
    tags: Sequence[str],
    notes: str,
    config: dict[str, Any],
    project: str = "etude",
    entity: str | None = None,
    group: str | None = None,
    mode: str | None = None,
) -> WeightsAndBiases:
    """Return a W&B logger: online with a key, offline without one.

    W&B also records the code's commit and uncommitted changes, and measures the machine. Without `mode`, the variable
    WANDB_MODE decides, then whether W&B finds a key (WANDB_API_KEY, a settings file, or netrc).

    Args:
        run_folder: Folder of the run, which has the record and gets W&B's folder `wandb/`.
        run_id: Id of the run in W&B, which stays the same when the run is continued.
        name: Name of the run in W&B.
        tags: Tags of the run in W&B.
        notes: Notes of the run in W&B.
        config: The resolved configuration, as plain values.
        project: W&B's project.
        entity: Person or team; None: that of the key.
        group: Name under which W&B groups runs.
        mode: `online`, `offline` or `disabled`; None: see above.

    Raises:
        ConfigurationError: If there is no such mode.
    """
    if mode not in (None, *MODES):
        raise ConfigurationError(f"logger.mode={mode} is not a mode of W&B; write {', '.join(MODES)} or null")
    mode = mode or os.environ.get("WANDB_MODE")
    run = {"name": name, "tags": list(tags), "notes": notes, "config": config}
    return WeightsAndBiases(run_folder, run_id, mode, project=project, entity=entity, group=group, **run)
