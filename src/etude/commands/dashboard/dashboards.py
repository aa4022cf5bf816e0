"""`etude dashboard`: the workspace and the report in W&B of a run, of a sweep, or of all runs of an experiment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.atomic import make_folder, storage_errors, write_text
from etude.commands.dashboard.description import Dashboard
from etude.commands.dashboard.views import (
    Shown,
    report,
    report_specification,
    require_packages,
    workspace,
    workspace_specification,
)
from etude.config.schema import Config
from etude.config.stored import stored_configuration
from etude.errors import ConfigurationError
from etude.runs.folder import CONFIGURATION
from etude.runs.saved_run import SavedRun
from etude.sweeps.saved_sweep import SavedSweep
from etude.sweeps.sweep_results import SweepResults
from etude.training.loggers.base import TrackedRun
from etude.training.loggers.tracking import Wandb, has_key

FOLDER = "dashboards"
"""Folder that is written where there is no key: in that of a run or a sweep, else in the working directory."""

_log = logging.getLogger(__name__)


def dashboard_of_run(run: SavedRun, changes: Mapping[str, Any] | None = None) -> Any:
    """Make the dashboard of a run.

    Args:
        run: The run.
        changes: Where it belongs: values of `logger.wandb.project` and `logger.wandb.entity`.

    Returns:
        The addresses of the workspace and of the report; without a key, the folder with their specifications.

    Raises:
        ConfigurationError: If wandb-workspaces is not installed, or a key cannot be changed.
        StorageError: If the specifications cannot be written.
    """
    config = run.changed(changes or {}, ["logger"])
    tracked = TrackedRun.of(run)
    shown = _shown(config, "ID", tracked.id)
    return _made(Dashboard.of(config, f"{tracked.experiment}: {tracked.name}"), shown, run.path / FOLDER)


def dashboard_of_sweep(sweep: SavedSweep, changes: Mapping[str, Any] | None = None) -> Any:
    """Make the dashboard of a sweep, with parallel coordinates and the importance of parameters.

    Args:
        sweep: The sweep.
        changes: As those of a run.

    Raises:
        ConfigurationError: As of a run; or if it has no member yet, or its members are judged by several scores.
        StorageError: If the specifications cannot be written.
    """
    results = SweepResults.read(sweep)
    members = [folder for folder in sweep.folders if (folder / CONFIGURATION).is_file()]
    if not members:
        raise ConfigurationError(f"{sweep.path} has no member yet; first: etude sweep resume {sweep.path}")
    if results.metric is None:
        raise ConfigurationError(f"the members of {sweep.path} are judged by several scores; write one of its runs")
    run = SavedRun(members[0], stored_configuration(members[0] / CONFIGURATION))
    config, group = run.changed(changes or {}, ["logger"]), TrackedRun.of(run).group
    shown = _shown(config, "Group", group, [name for name in results.varied if "." in name or name == "seed"])
    return _made(Dashboard.of(config, group), shown, sweep.path / FOLDER)


def dashboard_of_experiment(config: Config) -> Any:
    """Make the dashboard of all runs of an experiment.

    Raises:
        ConfigurationError: If wandb-workspaces is not installed.
        StorageError: If the specifications cannot be written.
    """
    name = config.run.experiment or "run"
    return _made(Dashboard.of(config, name), _shown(config, "Group", name), Path(FOLDER) / name)


def _shown(config: Config, key: str, value: str, varied: list[str] | None = None) -> Shown:
    node = config.logger.get("wandb")
    arguments = node.arguments if node is not None else {}
    if key == "Group" and arguments.get("group"):
        value = str(arguments["group"])
    project = str(arguments.get("project") or Wandb.project)
    return Shown(str(arguments.get("entity") or ""), project, key, value, config.validate.metric, varied or ())


def _made(dashboard: Dashboard, shown: Shown, folder: Path) -> Any:
    require_packages()
    if has_key():
        views = {"workspace": workspace(dashboard, shown), "report": report(dashboard, shown)}
        return {name: view.save().url for name, view in views.items()}
    with storage_errors(folder):
        make_folder(folder)
    write_text(folder / "workspace.json", workspace_specification(dashboard, shown))
    write_text(folder / "report.json", report_specification(dashboard, shown))
    _log.warning(
        "there is no key of W&B here: the specifications are written; to push them, type the same after: wandb login"
    )
    return folder
