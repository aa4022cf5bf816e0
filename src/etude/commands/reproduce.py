"""`etude reproduce`: a run repeated from its folder alone, and compared with the original bit by bit."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.atomic import make_folder, storage_errors, write_json, write_text
from etude.checkpoints.integrity import CheckpointBrokenError, broken, verify
from etude.commands.train import execute
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.runs import drift, manifest_drift
from etude.runs.documents import Change
from etude.runs.folder import DATA, REPRODUCTION, TOKENIZER, numbered, state
from etude.runs.reading import read_changes, read_manifest
from etude.runs.record import RECORD, read
from etude.runs.saved_run import SavedRun
from etude.training import launch
from etude.training.build import build_data, factory
from etude.training.continuation import BUDGET, is_complete
from etude.training.preflight.trial import micro_batches_of
from etude.training.provenance import refuse_changed_data

_RELOCATABLE = ("paths.", "data.corpus.", "data.parts.", "data.root")
_LONGEST_CHANGE = 120
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b")
_log = logging.getLogger(__name__)


def reproduce(run: SavedRun, *, name: Any = None, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Repeat a finished run in a new folder beside it, with its number of threads, and compare the two.

    A run is deterministic on one kind of machine, so every difference has a cause, which is among the returned changes of
    code, packages, hardware, settings and data.

    Args:
        run: The run.
        name: Name of the new folder, in which an unfinished reproduction is continued; None: a new name.
        changes: Values of `data.root` and of keys below `paths`, `data.corpus` and `data.parts`, for files that have moved.

    Returns:
        The two folders; for each section of the manifests whether it is the `same`, what it `is` now, and what `differs`;
        whether the reproduction used deterministic algorithms; the changes with which the run was `continued`; whether the
        two are `identical`; and the first line of the record, the first tensor of the last checkpoint, and the scores that
        differ.

    Raises:
        ConfigurationError: If the run is not finished, or cannot be reproduced, or another key is changed.
        DataError: If its data has changed.
        BrokenFileError: If its record is damaged.
        CheckpointBrokenError: If its last checkpoint is damaged.
    """
    changes = changes or {}
    config = _configuration(run, changes)
    continued = _continued(run.path)
    _refuse_damaged(run.path)
    machine = factory(config.trainer)()
    refuse_changed_data(run, build_data(config, machine, run.tokenizer).describe())
    reproduction = _folder(run.path, name)
    overrides = [*([] if name is None else [f"run.name={name}"]), *(f"{key}={value}" for key, value in changes.items())]
    config = config.updated({"run.name": reproduction.name}, overrides)
    if state(reproduction) == "new" or not is_complete(SavedRun.open(reproduction), config):
        threads = config.trainer.arguments["threads"]
        _log.info("reproducing %s in %s, with %d threads", run.path, reproduction, threads)
        _copy_inputs(run.path, reproduction)
        execute(reproduction, config)
    comparison = _compare(run.path, reproduction, continued)
    write_json(reproduction / REPRODUCTION, comparison)
    _show(comparison)
    return comparison


def _configuration(run: SavedRun, changes: Mapping[str, Any]) -> Config:
    """Return the configuration of the reproduction: the run's own, with its number of threads and without logger.

    Raises:
        ConfigurationError: If the run cannot be reproduced, or a change would make it a different run.
    """
    if run.state != "finished":
        raise ConfigurationError(
            f"{run.path} is not finished, so there is no end to reproduce; first: etude resume {run.path}"
        )
    run.require_training()
    for key, value in changes.items():
        if not key.startswith(_RELOCATABLE):
            raise ConfigurationError(
                f"{key}={value}: a reproduction has the run's own configuration; what can be given: run.name=NAME, and "
                f"{' and '.join(f'{place}…' for place in _RELOCATABLE)} where files have moved (command line)"
            )
    config = run.changed(changes, allowed=("paths", "data"))
    _refuse_seconds(run.path, config)
    if launch.started_outside() or config.trainer.arguments.get("nodes", 1) > 1:
        raise ConfigurationError("etude reproduce starts its processes itself, on one machine; call it by itself, once")
    settings = {"threads": run.manifest.processor.threads, "micro_batches": micro_batches_of(run)}
    return config.updated({**{f"trainer.{name}": value for name, value in settings.items()}, "logger": None})


def _refuse_seconds(run: Path, config: Config) -> None:
    for key, length in ((BUDGET, config.budget), ("validate.every", config.validate.every)):
        if length.unit == "second":
            raise ConfigurationError(
                f"{run} has {key}={length}: how many steps that is depends on the machine's speed, so it cannot be "
                "reproduced bit by bit; train anew with a length in steps, epochs or tokens"
            )


def _continued(run: Path) -> list[Change]:
    """Return the changes of settings with which a run was continued, and log them.

    Raises:
        ConfigurationError: If one is a longer budget: no configuration describes such a run from its start.
    """
    changes = read_changes(run)
    for change in changes:
        if BUDGET in change.changed:
            raise ConfigurationError(
                f"{run} was extended at step {change.step} (budget: {change.changed[BUDGET]}), so it is not the run that "
                "had that budget from the start; to compare with that one, train it anew: run.name=NAME"
            )
        settings = "; ".join(f"{key}: {values}" for key, values in change.changed.items())
        _log.warning(
            "continued at step %d with other settings, so bits may differ from there: %s", change.step, settings
        )
    return changes


def _refuse_damaged(run: Path) -> None:
    """Check the record and the last checkpoint, before hours of training that could not be compared with them."""
    read(run / RECORD)
    checkpoint = drift.last_checkpoint(run)
    problems = verify(checkpoint)
    if problems:
        raise CheckpointBrokenError(broken(checkpoint, problems[0]))


def _folder(run: Path, name: Any) -> Path:
    """Return the folder of the reproduction: the one of the given name, or a new one."""
    if name is None:
        return numbered(run.parent, f"{run.name}-reproduced")
    folder = run.parent / str(name)
    if not str(name).strip() or folder.parent != run.parent or str(name).startswith(".") or folder == run:
        raise ConfigurationError(
            f"run.name={name!r} cannot name a folder beside {run}; write another word (command line)"
        )
    with storage_errors(folder):
        make_folder(folder)
    return folder


def _copy_inputs(run: Path, reproduction: Path) -> None:
    """Copy the run's tokenizer and then, once that is complete, the description of the data."""
    if (reproduction / DATA).exists():
        return
    with storage_errors(reproduction / TOKENIZER):
        shutil.copytree(run / TOKENIZER, reproduction / TOKENIZER, dirs_exist_ok=True)
    write_text(reproduction / DATA, (run / DATA).read_text())


def _compare(run: Path, reproduction: Path, continued: list[Change]) -> dict[str, Any]:
    before, now = read_manifest(run).plain(), read_manifest(reproduction).plain()
    sections = {
        name: {"same": not changed, "is": manifest_drift.section(now, name), "differs": changed}
        for name, changed in manifest_drift.drift(before, now).items()
    }
    differences = {
        "first_line": drift.first_line(run, reproduction),
        "first_tensor": drift.first_tensor(drift.last_checkpoint(run), drift.last_checkpoint(reproduction)),
        "scores": drift.changed_scores(run, reproduction),
    }
    return {
        "run": str(run),
        "reproduction": str(reproduction),
        **sections,
        "deterministic": now["torch"]["deterministic"],
        "continued": [change.plain() for change in continued],
        "identical": not any(differences.values()),
        **differences,
    }


def _show(comparison: Mapping[str, Any]) -> None:
    """Print to stderr what is the same and what differs."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name in manifest_drift.SECTIONS:
        changed = [_short(f"{key}: {change}") for key, change in comparison[name]["differs"].items()]
        # `Text`, since rich would take a bracket in a name for a style.
        table.add_row(name, Text("\n".join(changed) or "same"))
    for note in comparison["continued"]:
        table.add_row("continued", Text(_short(f"at step {note['step']} with {', '.join(note['changed'])}")))
    for name, text in _differences(comparison):
        table.add_row(name, Text(text))
    verdict = "identical, to the last bit" if comparison["identical"] else "not identical"
    console = Console(stderr=True, highlight=False, force_jupyter=False)
    console.print()
    console.print(Text(f"{comparison['reproduction']}: {verdict}", style="bold"), soft_wrap=True)
    console.print(table)


def _differences(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the differences of the results as rows of a table."""
    rows = []
    line, tensor = comparison["first_line"], comparison["first_tensor"]
    if line is not None:
        values = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in line["values"].items())
        rows.append(("record", f"first at step {line['step']} (line {line['line']}): {values}"))
    if tensor is not None:
        how = f"by {tensor['largest_difference']} at most" if "largest_difference" in tensor else "in one of them only"
        rows.append(("weights", f"first {tensor['tensor']} ({tensor['file']}), {how}"))
    rows += [(name, f"{old} -> {new}") for name, (old, new) in comparison["scores"].items()]
    return rows


def _short(text: str) -> str:
    """Return a change with hashes abbreviated, truncated if it is still long."""
    text = _HASH.sub(r"\1", text)
    return text if len(text) <= _LONGEST_CHANGE else f"{text[: _LONGEST_CHANGE - 1]}…"
