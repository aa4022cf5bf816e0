"""Continuation of a run with another configuration: the machine may change, data may move, the budget may grow."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etude.atomic import storage_errors, sync, write_text
from etude.checkpoints.integrity import read_manifest
from etude.config.annotations import TARGET
from etude.config.schema import Config
from etude.config.values import LOCATIONS, flat, is_machine, within
from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.report.page import REPORT
from etude.runs.folder import CHANGES, FINISHED
from etude.runs.saved_run import SavedRun

BUDGET = "budget"
_log = logging.getLogger(__name__)


def requested_changes(run: SavedRun, config: Config) -> dict[str, str]:
    """Return how a configuration differs from that of a run: `1 -> 2` by key.

    Whether data that has moved is the same is not looked at: see `refuse_other_data`.

    Args:
        run: The run.
        config: The configuration to continue it with.

    Raises:
        ConfigurationError: If that would be another experiment, or the same one with a shorter budget.
    """
    requested = run.config.changes_to(config)
    moves = moved(run, config)
    science = {key: change for key, change in requested.items() if not is_machine(key) and key not in moves}
    if not science.keys() <= {BUDGET}:
        raise _begun_otherwise(run, science)
    if science:
        before, after = (Duration.parse(str(values[BUDGET])) for values in (run.config.values, config.values))
        if before == after:  # 60s and 1min
            del requested[BUDGET]
        elif before.unit != after.unit or after.amount < before.amount:
            raise ConfigurationError(
                f"{run.path} was begun with budget={run.config.values[BUDGET]}, which {config.values[BUDGET]} does not extend; "
                "write a longer one in the same unit, or begin a new run: run.name=NAME"
            )
    return requested


def moved(run: SavedRun, config: Config) -> dict[str, str]:
    """Return the changes that say where data is: those of paths and addresses at and below `LOCATIONS`."""
    before, after = flat(run.config.values), flat(config.values)
    return {
        key: change
        for key, change in run.config.changes_to(config).items()
        if within(key, LOCATIONS)
        and key.rpartition(".")[2] != TARGET
        and isinstance(before.get(key), str | list)
        and isinstance(after.get(key), str | list)
    }


def refuse_other_data(run: SavedRun, config: Config, described: Callable[[], Mapping[str, Any]]) -> None:
    """Refuse a configuration that moves the data of a run to where other data is.

    Args:
        run: The run.
        config: The configuration to continue it with.
        described: Reads the data that is there, and describes it as its module does; not called where nothing moves.

    Raises:
        ConfigurationError: If it is not the run's.
    """
    moves = moved(run, config)
    if moves and run.is_prepared and described()["fingerprint"] != run.data.fingerprint:
        raise _begun_otherwise(run, moves)


def _begun_otherwise(run: SavedRun, changes: Mapping[str, str]) -> ConfigurationError:
    differences = "; ".join(f"{key}: {change}" for key, change in changes.items())
    return ConfigurationError(
        f"{run.path} was begun with another configuration ({differences}); "
        "give this one a name of its own: run.name=NAME, or write what was begun"
    )


def is_complete(run: SavedRun, config: Config) -> bool:
    """Return whether a run is finished and reported, and a configuration does not extend it. No file is touched.

    Raises:
        ConfigurationError: If the run is finished and the configuration is another experiment's (see `requested_changes`).
    """
    concluded = run.state == "finished" and (run.path / REPORT).exists()
    return concluded and BUDGET not in requested_changes(run, config)


def continue_with(run: SavedRun, config: Config) -> SavedRun:
    """Store the configuration that a run is continued with, and note the changes in `changes.jsonl`.

    Args:
        run: The run, begun and locked.
        config: The configuration.

    Returns:
        The run with that configuration.

    Raises:
        ConfigurationError: See `requested_changes`.
    """
    changes = requested_changes(run, config)
    if not changes:
        return run
    run.require_training()
    note_changes(run, changes)
    if BUDGET in changes:
        _log.warning("the budget is longer now; a learning rate that depends on it follows the new one")
        # First: killed before the new budget is written, the run is an unfinished one, not a finished shorter one.
        with storage_errors(run.path / FINISHED):
            (run.path / FINISHED).unlink(missing_ok=True)
            sync(run.path)
    return SavedRun.begin(run.path, config)


def note_changes(run: SavedRun, changes: Mapping[str, str]) -> None:
    """Log what differs from the beginning of a run, and note it in `changes.jsonl`; the last line there is not repeated.

    Args:
        run: The run.
        changes: Changes by key, such as `1 -> 2`.
    """
    if not changes:
        return
    checkpoint = run.newest_checkpoint()
    step = read_manifest(checkpoint).step if checkpoint else 0
    _append(run.path / CHANGES, json.dumps({"step": step, "changed": dict(changes)}, ensure_ascii=False))
    for key, change in changes.items():
        _log.info("from step %d on: %s: %s", step, key, change)


def _append(path: Path, line: str) -> None:
    """Append a line, unless it is the last one already: a process may have been killed right after it wrote it."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.split("\n")[-2:-1] != [line]:  # not splitlines, which separates at U+2028 as well
        write_text(path, f"{text}{line}\n")
