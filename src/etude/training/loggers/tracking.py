"""Loggers of a run's metrics: the local record, and Weights & Biases as its mirror.

All local files of W&B together hold every event of the record once (see `etude.training.loggers.mirror`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from etude.config.agent_words import started_by_agent
from etude.config.schema import Validation
from etude.config.values import without_secrets
from etude.errors import ConfigurationError
from etude.runs.record import Event, Record, Where
from etude.runs.saved_run import SavedRun
from etude.training.loggers.base import TrackedRun, Tracker
from etude.training.loggers.mirror import PROGRESS, Entry, Mirror, Unsent
from etude.training.loggers.wandb_artifacts import KINDS, RunArtifacts

STEP = "trainer/global_step"
"""Lightning's name for the step in W&B, and the x-axis of its charts; each row also has `PROGRESS`, the other axes."""

MODES = ("online", "offline", "disabled")
INIT_TIMEOUT = 30.0
"""Seconds to wait for W&B's server when a run starts, before the run goes offline."""

FINISH_TIMEOUT = 30.0
"""Seconds to wait for the upload when a run ends; `wandb sync` uploads the rest."""

INSPECT_TIMEOUT = 120.0
"""Seconds that W&B may take to read one of its local files."""

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


class WeightsAndBiases(Mirror, WandbLogger):
    """One run in W&B for one run folder, however often it is interrupted and continued.

    Wrap it in a `SafeLogger`: connecting can take `INIT_TIMEOUT`, and every call can fail.

    A killed process loses up to 32 KB of W&B's last values, some of them from before the checkpoint that the run continues
    from. On continuation, missing events are sent from the record, and the others are not repeated. Offline, each
    continuation has its own folder, `offline-run-<time>-<id>`. Together these folders hold every event once, with
    consecutive row numbers; `wandb sync` uploads all of them to the same run, in chronological order. Online, W&B continues
    the run itself; only the values of the last step it received may then appear twice, with the same numbers.
    """

    def __init__(
        self,
        run_folder: Path,
        run_id: str,
        mode: str | None,
        judged: Validation | None = None,
        artifacts: RunArtifacts | None = None,
        **arguments: Any,
    ) -> None:
        """Store the arguments of `wandb.init`; nothing is started before the first use.

        Args:
            run_folder: Folder of the run.
            run_id: Id of the run in W&B.
            mode: `online`, `offline` or `disabled`; None: online if there is a key.
            judged: What the run is judged by: W&B's summary has the best value of this metric; None: the last, as of others.
            artifacts: What of the run's files W&B gets; None: nothing.
            arguments: Further arguments of `wandb.init`.
        """
        super().__init__(run_folder, save_dir=run_folder, id=run_id, log_model=False, **arguments)
        self._mode = mode
        self._judged = judged
        self._artifacts = artifacts
        self._position: dict[str, Any] = {}
        self._rows = 0
        self._complete_before = 0
        self._exit_code = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run in W&B, connected at the first use."""
        self.catch_up()
        return self._experiment

    def connect(self) -> Iterable[Entry]:
        """Connect the run, and read what W&B's local files hold of it."""
        files = sorted(self._folder.glob(f"wandb/*run-*-{self._id}/run-{self._id}.wandb"))
        self._experiment = run = self._start()
        if run.resumed:  # only online
            self._complete_before = int(run.summary.get(STEP, 0))
        rows = [row for file in files for row in _rows(file)] if run.offline and not run.disabled else []
        self._rows = len(rows)
        if self._artifacts is not None and not run.disabled:
            self._artifacts.declare_inputs(run)
        return {entry for row in rows for entry in row}

    def is_held(self, step: int, name: str) -> bool:
        """Return whether W&B holds a value: online it holds all from before the last step that it received."""
        return step < self._complete_before or super().is_held(step, name)

    def send(self, events: Sequence[Unsent]) -> None:
        """Log rows."""
        run: Any = self._experiment
        for event in events:
            # Online the server numbers the rows. Offline each file would start at 0, and hide rows of the previous file.
            number = self._rows if run.offline else None
            # A table or a page comes without its position: it is that of the values before it.
            self._position |= {name: event.values[name] for name in PROGRESS & event.values.keys()}
            run.log({**self._position, **event.values, STEP: event.step}, step=number, commit=True)
            self._rows += 1

    def log_page(self, key: str, page: str, step: int | None = None) -> None:
        """Log a self-contained page of HTML."""
        import wandb

        self.log_metrics({key: wandb.Html(page, inject=False)}, step)

    def log_heat_maps(self, key: str, images: Sequence[tuple[Any, str]], step: int | None = None) -> None:
        """Log images, [height, width, 3] in 8 bits, with a caption each; W&B makes PNGs of them by Pillow."""
        import wandb

        self.log_metrics({key: [wandb.Image(pixels, caption=text) for pixels, text in images]}, step)

    def alert(self, title: str, text: str, level: str) -> None:
        """Send an alert, by which W&B writes to the run's owner."""
        self.catch_up()
        run: Any = self._experiment
        run.alert(title, text, level)

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

    def close(self) -> None:
        """Finish the run in W&B for this process, with what it has made."""
        if self._experiment is not None:
            if self._artifacts is not None and not self._experiment.disabled:
                self._artifacts.log_outputs(self._experiment)
            self._experiment.finish()

    def abandon(self) -> None:
        """Detach from W&B's service process, which would otherwise block or fail at exit if it is gone or hangs.

        A working service still writes and sends its data, even after the end of this process.
        """
        import wandb

        with suppress(Exception):
            wandb.teardown(self._exit_code)

    def _start(self) -> Any:
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
        for axis in sorted(PROGRESS):  # axes that a chart can be given; no charts of their own
            run.define_metric(axis, step_metric=STEP, step_sync=True, hidden=True, summary="last")
        if self._judged is not None:
            run.define_metric(self._judged.metric, step_metric=STEP, step_sync=True, summary=self._judged.mode)
        return run


def _rows(file: Path) -> Iterator[set[Entry]]:
    """Yield the rows in one of W&B's local files, up to where it is intact; a table is listed as `name.path` and so on."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSPECT_TIMEOUT)
    records = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    items = [record["history"]["item"] for record in records if record.get("type") == "history"]
    for item in items:
        if STEP in item:
            yield {(item[STEP], name.partition(".")[0]) for name in item if not name.startswith("_") and name != STEP}


@dataclass(frozen=True)
class Wandb(Tracker):
    """Weights & Biases, with one W&B run per run folder: online with a key, offline without one.

    Attributes:
        project: W&B's project.
        entity: Person or team; None: that of the key.
        group: Name under which W&B groups runs; None: that of WANDB_RUN_GROUP, else the experiment, or the sweep.
        mode: `online`, `offline` or `disabled`; None: that of WANDB_MODE, else online if there is a key.
        artifacts: Which of data (its digest and counts), tokenizer, best, last (checkpoints) and predictions W&B gets.
        artifact_days: Days after which W&B may delete checkpoints and predictions; None: they stay.
    """

    project: str = "etude"
    entity: str | None = None
    group: str | None = None
    mode: str | None = None
    artifacts: Sequence[str] = ("data", "tokenizer")
    artifact_days: int | None = None

    def check(self) -> None:
        """Refuse an unknown mode, and unknown artifacts.

        Raises:
            ConfigurationError: If the mode or an artifact is unknown, or the days are not positive.
        """
        _check_mode(self.mode)
        for kind in self.artifacts:
            if kind not in KINDS:
                raise ConfigurationError(
                    f"logger.wandb.artifacts={kind} is no artifact of a run; write [{','.join(KINDS)}], or some of them"
                )
        if self.artifact_days is not None and self.artifact_days < 1:
            raise ConfigurationError(
                f"logger.wandb.artifact_days={self.artifact_days} keeps nothing; write 1 or more, or null"
            )

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
            group=self.group or os.environ.get("WANDB_RUN_GROUP") or TrackedRun.of(run).group,
            mode=self.mode,
            job_type=run.config.task.target.rpartition(".")[2],
            judged=run.config.validate,
            artifacts=RunArtifacts(run, tuple(self.artifacts), self.artifact_days) if self.artifacts else None,
        )


def has_key() -> bool:
    """Return whether W&B can be reached from here: there is a key, and WANDB_MODE does not say otherwise."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return bool(wandb.login(prompt=False, verify=False))


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
    job_type: str | None = None,
    judged: Validation | None = None,
    artifacts: RunArtifacts | None = None,
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
        job_type: What kind of run it is: the name of its task.
        judged: What the run is judged by, whose best value W&B's summary shows.
        artifacts: What of the run's files W&B gets; None: nothing.

    Raises:
        ConfigurationError: If there is no such mode.
    """
    _check_mode(mode)
    mode = mode or os.environ.get("WANDB_MODE")
    run = {"name": name, "tags": list(tags), "notes": notes, "config": config, "job_type": job_type}
    return WeightsAndBiases(
        run_folder, run_id, mode, judged, artifacts, project=project, entity=entity, group=group, **run
    )


def _check_mode(mode: str | None) -> None:
    if mode not in (None, *MODES):
        raise ConfigurationError(f"logger.wandb.mode={mode} is not a mode of W&B; write {', '.join(MODES)} or null")
