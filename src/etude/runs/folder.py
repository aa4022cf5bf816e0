"""Folders of runs, `outputs/<experiment>/<run>`: creation, lookup, and the names of the files in them."""

from __future__ import annotations

import difflib
import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from etude.atomic import make_folder, replace_link, storage_errors, sync
from etude.errors import ConfigurationError

CONFIGURATION = "config.yaml"
OVERRIDES = "overrides.yaml"
FINISHED = "finished.json"
MANIFEST = "manifest.json"
DATA = "data.json"
FACTS = "facts.json"
PRETRAINED = "pretrained.json"
TOKENIZER = "tokenizer"
COST = "cost.json"
CHECKPOINTS = "checkpoints"
IDENTITY = "id"
EVALUATIONS = "evaluations"
SAMPLES = "samples"
ATTENTION = "attention.json"
CHANGES = "changes.jsonl"
"""File with a line for each continuation under other values: {"step": 6, "changed": {KEY: "1 -> 2"}}."""
REPRODUCTION = "reproduction.json"
EXPORT = "export.json"
FAILURE = "failed.json"
"""File that says why the last attempt at a run ended with an error; gone as soon as the run is continued."""


def create(outputs: Path, experiment: str, name: str | None = None) -> Path:
    """Return the folder of a run, created if necessary, and point the link `outputs/last` to it.

    Args:
        outputs: Folder of all runs.
        experiment: Name of the experiment, such as `translation/demo`.
        name: Name of the run, whose folder may exist; None: a new folder named by the current time, which no other
            process gets.

    Raises:
        ConfigurationError: If the name cannot name a folder.
        StorageError: If the folder cannot be created.
    """
    if name is not None:
        check_name(name)
    parent = outputs / experiment
    with storage_errors(parent):
        make_folder(parent)
        if name is None:
            run = _new_folder(parent, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        else:
            run = parent / name
            make_folder(run)
        sync(parent)
    replace_link(outputs / "last", str(run.relative_to(outputs)))
    return run


def check_name(name: str) -> None:
    """Refuse a name that cannot name a run's folder.

    Raises:
        ConfigurationError: If it cannot.
    """
    if not name.strip() or "/" in name or name.startswith("."):
        raise ConfigurationError(f"run.name={name!r} cannot name a folder; write a word without '/' and leading '.'")


def _new_folder(parent: Path, stamp: str) -> Path:
    """Create a new folder with the given name, or else with the first free number, from 2, appended."""
    try:
        run = parent / stamp
        run.mkdir()
        return run
    except FileExistsError:
        return numbered(parent, stamp, first=2)


def numbered(parent: Path, stem: str, first: int = 1) -> Path:
    """Create a new folder `<stem>-<number>` with the first free number.

    Raises:
        StorageError: If it cannot be created.
    """
    count = first
    with storage_errors(parent):
        while True:
            run = parent / f"{stem}-{count}"
            try:
                run.mkdir()
            except FileExistsError:
                count += 1
            else:
                sync(parent)
                return run


def resolve(run: str, outputs: Path) -> Path:
    """Return the folder of an existing run.

    Args:
        run: `last`, a folder, or `<experiment>/<name>` under `outputs`.
        outputs: Folder of all runs.

    Raises:
        ConfigurationError: If there is no such run; the message names the most similar ones.
    """
    for candidate in (outputs / run, Path(run).expanduser()):
        if (candidate / CONFIGURATION).is_file():
            return candidate.resolve()
    names = [path.relative_to(outputs).as_posix() for path in runs_in(outputs)]
    if not names:
        raise ConfigurationError(
            f"no run {run!r}, nor any other in {outputs}; start one with: etude train experiment=translation/demo"
        )
    runs_inside = [name for name in names if name.startswith(f"{run.strip('/')}/")]
    nearest = runs_inside[-3:] or difflib.get_close_matches(run, names, n=3, cutoff=0.0)
    raise ConfigurationError(f"no run {run!r} here or in {outputs}; nearest: {', '.join(nearest)}")


def resolve_all(word: str, outputs: Path) -> list[Path]:
    """Return the folder of a run, as `resolve` does, or the sorted folders of all runs inside a folder.

    Raises:
        ConfigurationError: If there is no such run or folder of runs; the message names the most similar runs.
    """
    for folder in (outputs / word, Path(word).expanduser()):
        if not (folder / CONFIGURATION).is_file() and (runs := runs_in(folder)):
            return [run.resolve() for run in runs]
    return [resolve(word, outputs)]


def runs_in(folder: Path) -> list[Path]:
    """Return the sorted folders of all runs inside a folder; hidden folders are not whole yet."""
    runs = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if CONFIGURATION in files:
            runs.append(Path(parent))
            folders.clear()  # runs do not contain runs
    return sorted(runs)


def state(run: Path) -> Literal["new", "unfinished", "finished"]:
    """Return the state of a run, which follows from the files in its folder."""
    if (run / FINISHED).exists():
        return "finished"
    return "unfinished" if (run / CONFIGURATION).exists() else "new"
