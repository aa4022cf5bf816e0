"""What an agent of W&B's sweeps writes on a command line: Python, where a person writes Hydra's grammar.

An agent ends the command of its sweep by the values of a run, in one of several forms: `stop.patience=None`
(`${args_no_hyphens}`), `--stop.patience=None`, `+stop.patience=None`, or all of them as one object of JSON. It also leaves them
in a file. Where that can be read, it says which words are the agent's, and what they mean: `1` or `'1'`. Without it, the text
has to.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from etude.errors import ConfigurationError
from etude.untrusted import read_yaml

SWEEP = "WANDB_SWEEP_ID"
"""Variable that an agent sets in the processes that it starts."""
RUN = "WANDB_RUN_ID"
PARAMETERS = "WANDB_SWEEP_PARAM_PATH"
"""The file in which an agent leaves a run's values; beside it, for `${args_json_file}`, one of JSON."""

_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_CONSTANTS = {"None": None, "True": True, "False": False}
_ADVICE = "let the agent start the run again"


def started_by_agent() -> bool:
    """Return whether an agent of W&B's sweeps started this process."""
    return bool(os.environ.get(SWEEP))


def agent_run_id() -> str | None:
    """Return the id in W&B that an agent gave to the run of this process; None without an agent.

    Raises:
        ConfigurationError: If it cannot be one.
    """
    name = os.environ.get(RUN) if started_by_agent() else None
    if name and not is_run_id(name):
        raise ConfigurationError(
            f"{RUN}={name!r} is not the id of a run; it has letters, digits, - and _ (environment)"
        )
    return name or None


def is_run_id(text: str) -> bool:
    """Return whether a text can be the id of a run in W&B, and a part of a file's name."""
    return bool(_ID.fullmatch(text))


def take_agent_words(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take an agent's words out of a command line.

    Args:
        words: Words after the command's name.

    Returns:
        The words that are left, as they were, and the agent's values by key. Without an agent: all words, and no values.

    Raises:
        ConfigurationError: If a value has no meaning, or the agent's words may give trust.
        BrokenFileError: If the agent's file is damaged.
    """
    if not started_by_agent():
        return list(words), {}
    file = Path(os.environ.get(PARAMETERS) or "")
    known = _read_parameters(file) if file.is_file() else None
    left: list[str] = []
    values: dict[str, Any] = {}
    position = 0
    while position < len(words):
        rest = words[position:]
        if rest[0].startswith("{"):
            taken, count = _read_object(rest[0]), 1
        elif known is None:
            taken, count = _read_text(rest[0]), 1
        elif rest[0] == str(file.with_suffix(".json")):
            taken, count = known, 1
        else:
            taken, count = _match(rest, known)
        values |= taken
        left += [] if taken else rest[:1]
        position += count
    return left, {key: value for key, value in values.items() if not _is_hidden(key)}


def _is_hidden(key: str) -> bool:
    """Return whether a key is W&B's own: `_wandb`, which a run that comes back has."""
    return key.startswith("_") or key == "wandb_version"


def _read_parameters(file: Path) -> dict[str, Any]:
    tree = yaml.safe_load(read_yaml(file, _ADVICE))
    entries = tree.items() if isinstance(tree, Mapping) else ()
    return {str(key): one["value"] for key, one in entries if isinstance(one, Mapping) and "value" in one}


def _match(words: Sequence[str], known: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the value that the first word gives, if the agent wrote it, and the number of words that say so."""
    name, equals, text = re.sub(r"^(--|\+{1,2})", "", words[0]).partition("=")
    if name not in known:
        return {}, 1
    if equals:
        return ({name: known[name]} if text == str(known[name]) else {}), 1
    if words[0].startswith("--") and words[1:2] == [str(known[name])]:  # `${args_no_equals}`
        return {name: known[name]}, 2
    return {}, 1


def _read_object(word: str) -> dict[str, Any]:
    try:
        read = json.loads(word)
    except ValueError as error:
        raise ConfigurationError(f"{word!r} is not an object of JSON: {error} (command line of an agent)") from error
    return dict(read)


def _read_text(word: str) -> dict[str, Any]:
    """Return the value of a word that Hydra's grammar does not read, or reads as another; none of a word for Hydra."""
    key, equals, text = word.partition("=")
    if not equals or not re.fullmatch(r"[\w./@-]+", key) or key.startswith("-"):
        return {}
    if _is_hidden(key):
        return {key: text}
    if key == "trust" and text != "[]":
        raise ConfigurationError(
            f"{word} may be yours or the agent's, whose file {os.environ.get(PARAMETERS) or PARAMETERS} is not there; "
            "set ETUDE_TRUST instead (command line of an agent)"
        )
    if text in _CONSTANTS:
        return {key: _CONSTANTS[text]}
    if text.startswith(("[", "{")):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return {}
        return {key: value} if isinstance(value, list | dict) else {}
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return {key: text}
    return {key: text} if override.is_sweep_override() else {}
