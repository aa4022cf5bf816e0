"""Where a run's values go: the local record, and beside it dashboards that can do the run no harm.

`metrics.jsonl` is the truth. Weights & Biases mirrors it: whatever a killed process left unsent is sent from the record
when the run is continued, so that all its local files together hold every event once.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Event, Record, Where, read

STEP = "trainer/global_step"
"""Lightning's name for the step in W&B, and the x-axis of its charts."""

MODES = ("online", "offline", "disabled")
INIT_TIMEOUT = 30.0
"""Seconds to wait for W&B's server when a run starts; then the run is offline."""

FINISH_TIMEOUT = 30.0
"""Seconds to wait for the upload when a run ends; what is left can be uploaded by `wandb sync`."""

INSPECT_TIMEOUT = 120.0
"""Seconds to wait for W&B's own reading of one of its local files."""

Row = tuple[int, frozenset[str]]
"""A step, and the names of what was logged there together."""

_log = logging.getLogger(__name__)


class RecordLogger(Logger):
    """Writes every metric that Lightning logs to the run's record.

    Hyperparameters are in the run's `config.yaml`, and are not written again. Only rank zero writes.
    """

    def __init__(self, record: Record, where: Where) -> None:
        """Log to `record`, each event at the position that `where` tells."""
        super().__init__()
        self.record = record
        self._where = where

    @property
    def name(self) -> str:
        """The record's name."""
        return self.record.path.stem

    @property
    def version(self) -> str:
        """Nothing: a run has one record."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.record.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append an event. The position is `where`'s, which counts optimizer steps; `step` is not used.

        Raises:
            StorageError: If it cannot be written.
        """
        self.record.append(Event(*self._where(), metrics))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds the configuration."""

    @rank_zero_only
    def close(self) -> None:
        """Close the record."""
        self.record.close()


class WeightsAndBiases(WandbLogger):
    """One run in W&B for one run folder, however often its process is stopped and continued.

    To be wrapped in a `SafeLogger`: connecting may take as long as `INIT_TIMEOUT`, and everything here may fail.

    A killed process leaves W&B's last values unwritten, up to 32 KB of them, among them values from before the
    checkpoint that the run continues from. When it is continued, what W&B lacks is sent from the record, and what it
    has already is not sent again. Offline, each continuation makes a folder of its own, `offline-run-<time>-<id>`.
    Together these folders hold every event once and number their rows through; `wandb sync` given all of them uploads
    them into the one run, in the order of time. Online, W&B continues the run itself; only the values of the last step
    that it knew may then appear twice, with the same numbers.
    """

    def __init__(self, run_folder: Path, run_id: str, mode: str | None, **arguments: Any) -> None:
        """Remember what `wandb.init` will be given; nothing is started before the first use."""
        super().__init__(save_dir=run_folder, id=run_id, log_model=False, **arguments)
        self._folder = run_folder
        self._mode = mode
        self._sent: set[Row] = set()
        self._complete_before = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run in W&B; connects at the first use."""
        if self._experiment is None:
            written = sorted(self._folder.glob(f"wandb/*run-*-{self._id}/run-{self._id}.wandb"))
            self._experiment = self._connect()
            self._catch_up(written)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics or a table at a step; the same names at the same step are logged once."""
        _ = self.experiment
        self._send(metrics, step or 0)

    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Log a self-contained page of HTML."""
        import wandb

        self.log_metrics({key: wandb.Html(page, inject=False)}, step)

    def save(self) -> None:
        """Connect. Lightning calls this when a fit starts."""
        _ = self.experiment

    def close(self) -> None:
        """End the run in W&B as far as this process is concerned."""
        if self._experiment is not None:
            self._experiment.finish()

    def abandon(self) -> None:
        """Let go of W&B's service process: one that is gone, or does not answer, would fail or wait when this one ends.

        Where it works, it writes and sends what it has, also after the end of this process.
        """
        import wandb

        with suppress(Exception):
            wandb.teardown()

    def _connect(self) -> Any:
        """Start the run online where that is wanted and possible, else offline, and say so."""
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # without a network its reports hold up the exit
        import wandb

        if self._mode not in (None, "online"):
            return self._init(str(self._mode))
        try:
            if wandb.login(prompt=False, verify=False):
                return self._init("online")
            reason = "no key on this machine (WANDB_API_KEY, or `wandb login`)"
        except Exception as error:  # whatever it was, offline is possible
            wandb.teardown()  # the attempt that failed still holds the run's id
            reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("W&B is offline: %s; upload later by `wandb sync %s/wandb/offline-run-*`", reason, self._folder)
        return self._init("offline")

    def _init(self, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT)
        arguments = {name: value for name, value in self._wandb_init.items() if value is not None}
        # `create_new`, since one process may hold several runs: the members of a sweep.
        run = wandb.init(**{**arguments, "mode": mode, "reinit": "create_new", "settings": settings})
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _catch_up(self, written: Iterable[Path]) -> None:
        """Send what the record has and W&B lacks: an earlier process of this run was killed before it wrote that."""
        run: Any = self._experiment
        if run.disabled or not (self._folder / RECORD).exists():
            return
        if run.resumed:  # only online
            self._complete_before = int(run.summary.get(STEP, 0))
        elif run.offline:
            self._sent = {row for file in written for row in _rows(file)}
        for event in read(self._folder / RECORD):
            self._send({**event.values, "tokens": event.tokens, "seconds": event.seconds}, event.step)

    def _send(self, metrics: Mapping[str, Any], step: int) -> None:
        run: Any = self._experiment
        row = _row(step, metrics)
        if step < self._complete_before or row in self._sent:
            return
        # Online the server knows the next row's number. Offline each file would start at 0, and hide the one before.
        number = len(self._sent) if run.offline else None
        run.log({**metrics, STEP: step}, step=number, commit=True)
        self._sent.add(row)


def _row(step: int, names: Iterable[str]) -> Row:
    """What tells one row of W&B's history from another. W&B writes a table as `name.path`, `name.size` and so on."""
    metrics = {name.partition(".")[0] for name in names if not name.startswith("_")}
    return step, frozenset(metrics - {STEP, "tokens", "seconds"})


def _rows(file: Path) -> set[Row]:
    """Return the rows in one of W&B's local files, as far as it is whole."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSPECT_TIMEOUT)
    records = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    items = [record["history"]["item"] for record in records if record.get("type") == "history"]
    return {_row(item[STEP], item) for item in items if STEP in item}


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
    """Return a logger to W&B: online with a key, offline by itself without one, and never in the way.

    W&B also gets the code's commit and its difference from it, and measures the machine. Without `mode`, the variable
    WANDB_MODE decides, then whether W&B finds a key (WANDB_API_KEY, a settings file, or netrc).

    Args:
        run_folder: Where W&B's own folder `wandb/` goes, and where the record is.
        run_id: The run's id in W&B: the same whenever the run is continued.
        name: What W&B shows as the run's name.
        tags: W&B's tags.
        notes: W&B's notes.
        config: The resolved configuration, as plain values.
        project: W&B's project.
        entity: Person or team; by default the key's.
        group: Runs with the same group are shown together.
        mode: `online`, `offline` or `disabled`.

    Raises:
        ConfigurationError: If there is no such mode.
    """
    if mode not in (None, *MODES):
        raise ConfigurationError(f"logger.mode={mode} is not a mode of W&B; write {', '.join(MODES)} or null")
    mode = mode or os.environ.get("WANDB_MODE")
    run = {"name": name, "tags": list(tags), "notes": notes, "config": config}
    return WeightsAndBiases(run_folder, run_id, mode, project=project, entity=entity, group=group, **run)
