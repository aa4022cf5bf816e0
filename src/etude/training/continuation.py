"""What a run may be continued with: another machine, a longer budget, and nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from etude.atomic import storage_errors, sync_folder
from etude.checkpoints.integrity import newest_valid, read_manifest
from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.report.page import REPORT
from etude.runs.folder import (
    CHECKPOINTS,
    CONFIGURATION,
    FINISHED,
    changes,
    is_machine,
    state,
    without_secrets,
    write_configuration,
    write_text,
)

CHANGES = "changes.jsonl"
"""One line for each time that a run was continued with other values: {"step": 6, "changed": {KEY: "1 -> 2"}}."""

BUDGET = "budget"
_log = logging.getLogger(__name__)


def asked_changes(run: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """Return what a configuration would change of a run that was begun, by key.

    Args:
        run: The run's folder.
        values: The configuration that it shall be continued with.

    Raises:
        ConfigurationError: If that would be another experiment, or the same one with a shorter budget.
    """
    stored = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(run / CONFIGURATION)))
    asked = changes(stored, without_secrets(values))
    science = {key: change for key, change in asked.items() if not is_machine(key)}
    if not science.keys() <= {BUDGET}:
        shown = "; ".join(f"{key}: {change}" for key, change in science.items())
        raise ConfigurationError(
            f"{run} was begun with another configuration ({shown}); "
            "give this one a name of its own: run.name=NAME, or write what was begun"
        )
    if science:
        _refuse_shorter(run, str(stored[BUDGET]), str(values[BUDGET]))
    return asked


def _refuse_shorter(run: Path, old: str, new: str) -> None:
    before, after = Duration.parse(old), Duration.parse(new)
    if before.unit != after.unit or after.amount < before.amount:
        raise ConfigurationError(
            f"{run} was begun with budget={old}, which {new} does not extend; "
            f"write a longer one in the same unit, or begin a new run: run.name=NAME"
        )


def nothing_left(run: Path, values: Mapping[str, Any]) -> bool:
    """Whether a run is finished and reported, and a configuration does not extend it. No file is touched.

    Raises:
        ConfigurationError: As `asked_changes` does.
    """
    concluded = state(run) == "finished" and (run / REPORT).exists()
    return concluded and BUDGET not in asked_changes(run, values)


def adopt(run: Path, values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Have a run continued with a configuration; what that changes is said and noted in `changes.jsonl`.

    Args:
        run: The run's folder, begun and locked.
        values: The configuration.
        overrides: What was written on the command line.

    Raises:
        ConfigurationError: As `asked_changes` does.
    """
    asked = asked_changes(run, values)
    if not asked:
        return
    note_changes(run, asked)
    if BUDGET in asked:
        _log.warning("the budget is longer now; a learning rate that depends on it follows the new one")
        # First: killed before the new budget is written, the run is an unfinished one, not a finished shorter one.
        with storage_errors(run / FINISHED):
            (run / FINISHED).unlink(missing_ok=True)
            sync_folder(run)
    write_configuration(run, values, overrides)


def note_changes(run: Path, changed: Mapping[str, str]) -> None:
    """Say what a run is continued with that it was not begun with, if anything, and note it in `changes.jsonl`.

    Args:
        run: The run's folder.
        changed: Such as `1 -> 2`, by key.
    """
    if not changed:
        return
    checkpoint = newest_valid(run / CHECKPOINTS)
    step = read_manifest(checkpoint).step if checkpoint else 0
    _note(run / CHANGES, json.dumps({"step": step, "changed": dict(changed)}, ensure_ascii=False))
    for key, change in changed.items():
        _log.info("from step %d on: %s: %s", step, key, change)


def _note(path: Path, line: str) -> None:
    """Add a line, unless a process that was killed right after this has added it already."""
    noted = path.read_text() if path.exists() else ""
    if noted.splitlines()[-1:] != [line]:
        write_text(path, f"{noted}{line}\n")
