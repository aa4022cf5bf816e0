"""Folders of runs: `outputs/<experiment>/<run>`, how they are made, found, and what is written in them."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from etude.atomic import make_folder, replace_file, replace_link, storage_errors, sync_folder
from etude.errors import ConfigurationError
from etude.runs.lock import RunLock

__all__ = [
    "MACHINE",
    "RunLock",
    "changes",
    "create",
    "differences",
    "is_machine",
    "public_arguments",
    "resolve",
    "state",
    "within",
    "without_secrets",
    "write_configuration",
    "write_json",
    "write_text",
]

CONFIGURATION = "config.yaml"
OVERRIDES = "overrides.yaml"
FINISHED = "finished.json"
MADE_OF = "manifest.json"
DATA = "data.json"
FACTS = "facts.json"
PRETRAINED = "pretrained.json"
TOKENIZER = "tokenizer"
COST = "cost.json"

NONE = "(none)"
"""What is shown of a key that a configuration does not have."""
CHECKPOINTS = "checkpoints"

MACHINE = ("trainer", "logger", "paths", "log", "run.notes", "run.tags")
"""The keys, with all below them, that a run may be continued with other values of: they do not change the science."""

_SECRET = re.compile(
    r"key|token"
    r"|(?:.*[_-])?(?:api|access|secret|private|auth|hf|hub|wandb)[_-]?(?:key|token)"
    r"|.*(?:password|passwd|passphrase|secret|credentials?)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(r"([\w-]+)[ \"']*[=:]")


def create(outputs: Path, experiment: str, name: str | None = None) -> Path:
    """Return the folder of a run, made if need be, and point `outputs/last` to it.

    Args:
        outputs: The folder of all runs.
        experiment: The experiment's name, such as `translation/demo`.
        name: The run's name: the folder of that name, new or not. None: a new folder named after this moment, which
            no other process gets.

    Raises:
        ConfigurationError: If the name cannot be that of a folder.
        StorageError: If the folder cannot be made.
    """
    if name is not None and (not name.strip() or "/" in name or name.startswith(".")):
        raise ConfigurationError(f"run.name={name!r} cannot name a folder; write a word without '/' and leading '.'")
    parent = outputs / experiment
    with storage_errors(parent):
        make_folder(parent)
        if name is None:
            run = _new_folder(parent, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        else:
            run = parent / name
            make_folder(run)
        sync_folder(parent)
    replace_link(outputs / "last", str(run.relative_to(outputs)))
    return run


def _new_folder(parent: Path, stamp: str) -> Path:
    """Make a folder that did not exist: the name itself, or with the first number, from 2, that is free."""
    try:
        run = parent / stamp
        run.mkdir()
        return run
    except FileExistsError:
        return numbered(parent, stamp, first=2)


def numbered(parent: Path, stem: str, first: int = 1) -> Path:
    """Make a folder that did not exist: `<stem>-<number>`, of the first number that is free.

    Raises:
        StorageError: If it cannot be made.
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
                sync_folder(parent)
                return run


def resolve(run: str, outputs: Path) -> Path:
    """Return the folder of an existing run.

    Args:
        run: `last`, a folder, or `<experiment>/<name>` under `outputs`.
        outputs: The folder of all runs.

    Raises:
        ConfigurationError: If there is no such run; names the nearest ones.
    """
    for candidate in (outputs / run, Path(run).expanduser()):
        if (candidate / CONFIGURATION).is_file():
            return candidate.resolve()
    known = [path.relative_to(outputs).as_posix() for path in runs_in(outputs)]
    if not known:
        raise ConfigurationError(
            f"no run {run!r}, nor any other in {outputs}; start one with: etude train experiment=translation/demo"
        )
    inside = [name for name in known if name.startswith(f"{run.strip('/')}/")]
    nearest = inside[-3:] or difflib.get_close_matches(run, known, n=3, cutoff=0.0)
    raise ConfigurationError(f"no run {run!r} here or in {outputs}; nearest: {', '.join(nearest)}")


def resolve_all(word: str, outputs: Path) -> list[Path]:
    """Return the run of a name, as `resolve` does, or all runs inside the folder of that name, in order.

    Raises:
        ConfigurationError: If there is no such run, nor any in such a folder; names the nearest ones.
    """
    for folder in (outputs / word, Path(word).expanduser()):
        if not (folder / CONFIGURATION).is_file() and (found := runs_in(folder)):
            return [run.resolve() for run in found]
    return [resolve(word, outputs)]


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of all runs inside a folder, in order."""
    found = []
    for place, folders, files in os.walk(folder):
        if CONFIGURATION in files:
            found.append(Path(place))
            folders.clear()
    return sorted(found)


def state(run: Path) -> Literal["new", "unfinished", "finished"]:
    """Return how far a run is, from the files in its folder."""
    if (run / FINISHED).exists():
        return "finished"
    return "unfinished" if (run / CONFIGURATION).exists() else "new"


def write_text(path: Path, text: str) -> None:
    """Write a file at once, in UTF-8: it has the old text or the new one, never a part.

    Raises:
        StorageError: If it cannot be written.
    """
    replace_file(path, text.encode())


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write plain values as JSON, at once. Numbers that are not finite are written as Python reads them: NaN, Infinity.

    Args:
        path: The file.
        values: Mappings, lists, texts and numbers.
        indent: Of each level; None: all on one line.

    Raises:
        StorageError: If it cannot be written.
    """
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=False) + "\n")


def write_configuration(run: Path, config: DictConfig | Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Write `config.yaml`, resolved, and `overrides.yaml`; without secrets (see `without_secrets`).

    Raises:
        StorageError: If they cannot be written.
    """
    composed = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    plain = OmegaConf.to_container(composed, resolve=True)
    write_text(run / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(public_arguments(overrides))))
    # Last: a folder that has it is a run that has begun.
    write_text(run / CONFIGURATION, OmegaConf.to_yaml(OmegaConf.create(without_secrets(plain))))


def without_secrets(tree: Any) -> Any:
    """Return nested plain values without the keys that hold a secret: `api_key`, `token`, `password` and the like.

    Names such as `tokens`, `mask_token` or `key_width` are no secrets; nor is a key with values under it.
    """
    if isinstance(tree, Mapping):
        return {key: without_secrets(item) for key, item in tree.items() if _is_public(key, item)}
    if isinstance(tree, (list, tuple)):
        return [without_secrets(item) for item in tree]
    return tree


def _is_public(key: Any, value: Any) -> bool:
    return value is None or isinstance(value, (Mapping, list, tuple)) or not _SECRET.fullmatch(str(key))


def public_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line without those that set a secret, also within braces: `a={api_key:…}`."""
    return [text for text in arguments if not any(map(_SECRET.fullmatch, _ASSIGNED.findall(text)))]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two configurations, one line for each key, as `model.width: 256 -> 512`.

    Args:
        old: Of the run.
        new: That was asked for.

    Returns:
        Lines in the order of the keys, without those of the machine (`MACHINE`); a key that one of them does not have
        is `(none)` there.
    """
    return [f"{key}: {change}" for key, change in changes(old, new).items() if not is_machine(key)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return all that differs between two configurations, also of the machine: `256 -> 512` by its key, in order."""
    before, after = shown_values(old), shown_values(new)
    texts = [(key, before.get(key, NONE), after.get(key, NONE)) for key in sorted({*before, *after})]
    return {key: f"{first} -> {second}" for key, first, second in texts if first != second}


def shown_values(config: Mapping[str, Any]) -> dict[str, str]:
    """Return each value of a configuration as a text by its dotted key; equal values have equal texts."""
    return {key: _shown(value) for key, value in _flat(config).items()}


def is_machine(key: str) -> bool:
    """Whether a dotted key is one of `MACHINE`, or below one."""
    return within(key, MACHINE)


def within(key: str, places: Sequence[str]) -> bool:
    """Whether a dotted key is one of others, or below one."""
    return any(f"{key}.".startswith(f"{place}.") for place in places)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by their dotted keys; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> str:
    """Return a value as text; a list and a tuple of equal items look alike, as do 1 and 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(list(value) if isinstance(value, tuple) else value)
