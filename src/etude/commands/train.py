"""`etude train`, `etude resume` and `etude prepare`: beginning, continuing and reporting a run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.config.agent_words import agent_run_id
from etude.config.schema import Config
from etude.config.values import LOCATIONS
from etude.errors import ConfigurationError, defects, memory_errors
from etude.report.page import report
from etude.report.summary import terminal_summary
from etude.runs.failure import failure_noted
from etude.runs.folder import CONFIGURATION, create, state
from etude.runs.lock import RunLock
from etude.runs.saved_run import SavedRun
from etude.training import launch
from etude.training.build import build_data, check_trackers, factory, warm_start_run
from etude.training.continuation import BUDGET, continue_with, is_complete, refuse_other_data, requested_changes
from etude.training.fit import fit
from etude.training.from_runs.teacher_run import with_teacher_folder
from etude.training.machine import Machine
from etude.training.warm_start import with_warm_start

RESUMABLE = ("trainer", "logger", "log", "paths", *LOCATIONS, BUDGET)
"""Configuration keys, with all below them, whose values may change when a run is continued."""

_log = logging.getLogger(__name__)


def train(config: Config) -> SavedRun:
    """Begin a run, or continue the run of the configured name, and conclude it.

    Raises:
        ConfigurationError: If the run of that name was begun with another configuration.
        FolderInUseError: If another process is using its folder.
    """
    config = with_teacher_folder(with_warm_start(config))
    _check(config)  # before a folder is made and processes are started
    folder = _folder(config)
    if state(folder) != "new":
        run = SavedRun.open(folder)
        refuse_other_data(run, config, lambda: _data_of(run, config))
        if is_complete(run, config):
            _log_finished(run)
            return run
    if launch.global_rank() > 0:
        run = _wait_for_rank_0(folder, config)
        fit(run)
        return run
    return execute(folder, config)


def resume(run: SavedRun, changes: Mapping[str, Any] | None = None) -> SavedRun:
    """Continue a run to its end; a finished run is left unchanged.

    Args:
        run: The run.
        changes: Values of configuration keys at or below `RESUMABLE`: keys of the machine, such as `trainer.devices`, which
            do not affect results; where data has moved to; and `budget`, to train for longer.
    """
    changes = changes or {}
    config = run.changed(changes, RESUMABLE)
    refuse_other_data(run, config, lambda: _data_of(run, config))
    if is_complete(run, config):
        _log_finished(run)
        return run
    _check(config)
    return execute(run.path, config.updated({}, [f"{key}={value}" for key, value in changes.items()]))


def prepare(config: Config) -> dict[str, Any]:
    """Read the data, train the tokenizer and fill the cache, so that training begins at once.

    Returns:
        The content of `data.json` of such a run.
    """
    config = with_warm_start(config)
    start = warm_start_run(config)
    return build_data(config, _machine(config), start.tokenizer if start else None).describe()


def _data_of(run: SavedRun, config: Config) -> dict[str, Any]:
    """Describe the data that a configuration names, with the tokenizer of a run."""
    return build_data(config, _machine(config), run.tokenizer).describe()


def _machine(config: Config) -> Machine:
    machine = factory(config.trainer)()
    assert isinstance(machine, Machine)  # noqa: S101 (for type checkers: the configuration was checked)
    return machine


def _check(config: Config) -> None:
    """Refuse a machine or trackers that this computer does not have."""
    _machine(config).check()
    check_trackers(config)


def execute(folder: Path, config: Config) -> SavedRun:
    """Begin a run in a folder, or continue the run there, and conclude it.

    Raises:
        ConfigurationError: If the run was begun with another configuration.
        FolderInUseError: If another process is using the folder.
    """
    with RunLock(folder) as lock, defects(folder), memory_errors():
        new = state(folder) == "new"
        run = SavedRun.begin(folder, config) if new else continue_with(SavedRun.open(folder), config)
        if run.state != "finished":  # it is finished if the process was killed before the report was written
            with failure_noted(folder), defects(folder), memory_errors():
                _fit(run, lock)
        report(folder)
        terminal_summary(folder)
    return SavedRun.open(folder)


def _fit(run: SavedRun, lock: RunLock) -> None:
    """Train in this process, or in one for each device unless somebody else has started those."""
    devices = run.config.trainer.arguments.get("devices", 1)
    if devices > 1 and not launch.started_outside():
        launch.launch(run.path, devices, lock)
    else:
        fit(run)


def _log_finished(run: SavedRun) -> None:
    _log.info("%s is finished; nothing to do", run.path)


def _folder(config: Config) -> Path:
    """Return the run's folder, the same for all ranks that a launcher started, and for each start by an agent of W&B's sweeps."""
    name = agent_run_id() if config.run.name is None else config.run.name
    if name is None and launch.started_outside():
        name = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
        if name in (None, "none"):
            raise ConfigurationError("run.name is null, but several processes need one folder; give run.name=NAME")
    return create(config.paths.outputs, config.run.experiment or "run", name)


def _wait_for_rank_0(folder: Path, config: Config, seconds: float = 120.0) -> SavedRun:
    """Return the run once rank 0 has written the configuration that this rank was started with."""
    deadline = time.monotonic() + seconds
    while True:
        if state(folder) != "new" and not requested_changes(run := SavedRun.open(folder), config):
            return run
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{folder / CONFIGURATION} was not written in {seconds:g} s; has rank 0 failed?")
        time.sleep(0.1)
