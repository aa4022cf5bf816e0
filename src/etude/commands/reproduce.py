"""A run, run again from its folder alone; and whether it came to the same, to the last bit."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.atomic import make_folder, storage_errors
from etude.checkpoints.integrity import broken, verify
from etude.config.schema import Config
from etude.duration import Duration
from etude.errors import ConfigurationError, StorageError
from etude.runs import drift
from etude.runs.folder import DATA, TOKENIZER, numbered, state, write_json, write_text
from etude.runs.record import RECORD, read
from etude.runs.stored import stored_configuration
from etude.tokenization.base import Tokenizer
from etude.training import launch
from etude.training.build import build_data, make
from etude.training.continuation import BUDGET, CHANGES, nothing_left
from etude.training.fit import execute
from etude.training.run_facts import refuse_other_data

REPRODUCTION = "reproduction.json"
"""In the folder of a reproduction: what `reproduce` returned."""

_ELSEWHERE = ("paths.", "data.corpus.")
_LONGEST_CHANGE = 120
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b")
_log = logging.getLogger(__name__)


def reproduce(run: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Run a finished run again, in a new folder beside it, with the number of threads that it had, and compare.

    A run is deterministic on one kind of machine, so that what differs has a cause: it is among the changes of code,
    packages, hardware, settings and data that are returned with it.

    Args:
        run: The run's folder.
        overrides: `run.name`, the new folder's name, of which an unfinished reproduction is continued; and keys below
            `paths` and `data.corpus`, where files have moved.

    Returns:
        The two folders; for each section of the manifests whether it is the `same`, what it `is` now, and what `differs`;
        whether the reproduction was made with deterministic algorithms; what the run was `continued` with; whether both are
        `identical`; and the first line of the record, the first tensor of the last checkpoint, and the scores that differ.

    Raises:
        ConfigurationError: If the run is not finished, or cannot be reproduced, or something else would be changed.
        DataError: If its data has changed.
        StorageError: If its record or its last checkpoint is damaged.
    """
    values = _configuration(run, overrides)
    continued = _continued(run)
    _refuse_damaged(run)
    data = build_data(Config.from_plain(values), values, make(values["trainer"])(), Tokenizer.load(run / TOKENIZER))
    refuse_other_data(run, data.describe())
    again = _folder(run, overrides.get("run.name"))
    values["run"]["name"] = again.name
    if not nothing_left(again, values):
        _log.info("reproducing %s in %s, with %d threads", run, again, values["trainer"]["threads"])
        _hand_over(run, again)
        execute(again, values, [f"{key}={value}" for key, value in overrides.items()])
    found = _compare(run, again, continued)
    write_json(again / REPRODUCTION, found)
    _show(found)
    return found


def _configuration(run: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration to reproduce a run with: its own, its number of threads, and no dashboard.

    Raises:
        ConfigurationError: If the run cannot be reproduced, or another one is asked for.
    """
    if state(run) != "finished":
        raise ConfigurationError(f"{run} is not finished, so there is no end to reproduce; first: etude resume {run}")
    moved = {key: value for key, value in overrides.items() if key != "run.name"}
    for key, value in moved.items():
        if not key.startswith(_ELSEWHERE):
            raise ConfigurationError(
                f"{key}={value}: a reproduction has the run's own configuration; what can be given: run.name=NAME, and "
                f"{' and '.join(f'{prefix}…' for prefix in _ELSEWHERE)} where files have moved (command line)"
            )
    values = stored_configuration(run, moved, allowed=("paths", "data"))
    _refuse_seconds(run, values)
    if launch.started_outside() or values["trainer"]["nodes"] > 1:
        raise ConfigurationError("etude reproduce starts its processes itself, on one machine; call it by itself, once")
    values["trainer"]["threads"] = drift.read_manifest(run)["processor"]["threads"]
    values["logger"] = None
    return values


def _refuse_seconds(run: Path, values: Mapping[str, Any]) -> None:
    for key, length in ((BUDGET, values[BUDGET]), ("validate.every", values["validate"]["every"])):
        if Duration.parse(length).unit == "second":
            raise ConfigurationError(
                f"{run} has {key}={length}: how many steps that is depends on the machine's speed, so it cannot be "
                "reproduced bit by bit; train anew with a length in steps, epochs or tokens"
            )


def _continued(run: Path) -> list[dict[str, Any]]:
    """Return what a run was continued with that it was not begun with.

    Raises:
        ConfigurationError: If that was a longer budget: no configuration describes such a run from its start.
    """
    path = run / CHANGES
    notes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for note in notes:
        if BUDGET in note["changed"]:
            raise ConfigurationError(
                f"{run} was extended at step {note['step']} (budget: {note['changed'][BUDGET]}), so it is not the run that "
                "had that budget from the start; to compare with that one, train it anew: run.name=NAME"
            )
        shown = "; ".join(f"{key}: {change}" for key, change in note["changed"].items())
        _log.warning("continued at step %d with other settings, so bits may differ from there: %s", note["step"], shown)
    return notes


def _refuse_damaged(run: Path) -> None:
    """Find out before hours of training that there is nothing to compare with."""
    read(run / RECORD)
    checkpoint = drift.last_checkpoint(run)
    problems = verify(checkpoint)
    if problems:
        raise StorageError(broken(checkpoint, problems[0]))


def _folder(run: Path, name: str | None) -> Path:
    """Return the folder of the reproduction: a new one, or that of the given name."""
    if name is None:
        return numbered(run.parent, f"{run.name}-reproduced")
    again = run.parent / str(name)
    if not str(name).strip() or again.parent != run.parent or str(name).startswith(".") or again == run:
        raise ConfigurationError(
            f"run.name={name!r} cannot name a folder beside {run}; write another word (command line)"
        )
    with storage_errors(again):
        make_folder(again)
    return again


def _hand_over(run: Path, again: Path) -> None:
    """Give the reproduction the run's tokenizer; and, after it is whole, the description of the data."""
    if (again / DATA).exists():
        return
    with storage_errors(again / TOKENIZER):
        shutil.copytree(run / TOKENIZER, again / TOKENIZER, dirs_exist_ok=True)
    write_text(again / DATA, (run / DATA).read_text())


def _compare(run: Path, again: Path, continued: list[dict[str, Any]]) -> dict[str, Any]:
    before, now = drift.read_manifest(run), drift.read_manifest(again)
    made_of = {
        name: {"same": not changed, "is": drift.section(now, name), "differs": changed}
        for name, changed in drift.drift(before, now).items()
    }
    found = {
        "first_line": drift.first_line(run, again),
        "first_tensor": drift.first_tensor(drift.last_checkpoint(run), drift.last_checkpoint(again)),
        "scores": drift.changed_scores(run, again),
    }
    return {
        "run": str(run),
        "reproduction": str(again),
        **made_of,
        "deterministic": now["torch"]["deterministic"],
        "continued": continued,
        "identical": not any(found.values()),
        **found,
    }


def _show(found: Mapping[str, Any]) -> None:
    """Show on stderr what is the same and what differs."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name in drift.SECTIONS:
        changed = [_short(f"{key}: {change}") for key, change in found[name]["differs"].items()]
        # `Text`, since rich would take a bracket in a name for a style.
        table.add_row(name, Text("\n".join(changed) or "same"))
    for note in found["continued"]:
        table.add_row("continued", Text(_short(f"at step {note['step']} with {', '.join(note['changed'])}")))
    for name, text in _differences(found):
        table.add_row(name, Text(text))
    verdict = "identical, to the last bit" if found["identical"] else "not identical"
    console = Console(stderr=True, highlight=False)
    console.print()
    console.print(Text(f"{found['reproduction']}: {verdict}", style="bold"), soft_wrap=True)
    console.print(table)


def _differences(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what differs in the results, for people."""
    rows = []
    line, tensor = found["first_line"], found["first_tensor"]
    if line is not None:
        values = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in line["values"].items())
        rows.append(("record", f"first at step {line['step']} (line {line['line']}): {values}"))
    if tensor is not None:
        how = f"by {tensor['largest_difference']} at most" if "largest_difference" in tensor else "in one of them only"
        rows.append(("weights", f"first {tensor['tensor']} ({tensor['file']}), {how}"))
    rows += [(name, f"{old} -> {new}") for name, (old, new) in found["scores"].items()]
    return rows


def _short(text: str) -> str:
    """Return a change with the beginnings of hashes, and its own beginning if it is still long."""
    text = _HASH.sub(r"\1", text)
    return text if len(text) <= _LONGEST_CHANGE else f"{text[: _LONGEST_CHANGE - 1]}…"
