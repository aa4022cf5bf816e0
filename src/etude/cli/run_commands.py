"""Commands on runs that exist: resume, evaluate, compare, predict, inspect, export, reproduce, replay, report."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from etude.cli.command_table import Command
from etude.cli.streams import data_stream, write_result
from etude.errors import ConfigurationError, memory_errors
from etude.runs.folder import resolve, resolve_all

NOT_IDENTICAL = 3
"""Exit code of a reproduction that came to something else."""

_NO_TEXT = re.compile(r"--?[A-Za-z][\w-]*$|[+~]*[\w./]+=")
"""An option or a key with its value."""


def run_on_runs(name: str, command: Command, words: Sequence[str]) -> int:
    """Call a command's function with the runs and overrides of the command line; returns the exit code.

    Raises:
        EtudeError: If the words do not fit the command, or what stopped the work.
    """
    if "--help" in words or "-h" in words:
        sys.stdout.write(usage(name, command))
        return 0
    words, texts = take_texts(name, command, words)
    overrides = {**read_overrides([word for word in words if "=" in word]), **texts}
    outputs = Path(str(overrides.get("paths.outputs", "outputs"))).expanduser()
    named = [word for word in words if "=" not in word]
    option = next((word for word in named if word.startswith("-")), None)
    if option is not None:
        raise ConfigurationError(f"{option} is not an option of etude {name}; write RUN and key=value (command line)")
    if not named:
        raise ConfigurationError(f"etude {name} needs a RUN: a folder, or last; for example: etude {name} last")
    if len(named) > 1 and not command.many:
        raise ConfigurationError(f"etude {name} takes one RUN, not {len(named)}: {' '.join(named)} (command line)")
    if name == "report" and overrides:
        raise ConfigurationError(
            f"etude report takes no key=value, but {next(iter(overrides))} is given (command line)"
        )
    if command.folders:
        runs = list(dict.fromkeys(run for word in named for run in resolve_all(word, outputs)))
    else:
        runs = [resolve(word, outputs) for word in named]
    with data_stream() as data, memory_errors():
        result = _call(name, command, runs, overrides, data)
        write_result(result, data)
    return NOT_IDENTICAL if isinstance(result, Mapping) and result.get("identical") is False else 0


def take_texts(name: str, command: Command, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Part the texts of a command from its other words: those after the RUN, and `text=…` as it is written.

    A text may hold anything but look like `key=…` or `--option`; with its key before it, it may do that as well.

    Raises:
        ConfigurationError: If there are more texts than the command takes.
    """
    texts: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        run_is_named = any("=" not in other for other in rest)
        if equals and key in command.texts:
            texts[key] = value
        elif not command.texts or not run_is_named or _NO_TEXT.match(word):
            rest.append(word)
        elif place := next((key for key in command.texts if key not in texts), None):
            texts[place] = word
        else:
            raise ConfigurationError(
                f"etude {name} takes {' and '.join(command.texts)} after RUN, but {word!r} is one more; write each text in "
                "quotes (command line)"
            )
    return rest, texts


def _call(name: str, command: Command, runs: list[Path], overrides: dict[str, Any], data: Any) -> Any:
    function = command.function()
    if name == "predict":
        return function(runs[0], overrides, lines=sys.stdin.buffer, out=data)
    if name == "report":
        return function(runs[0])
    return function(runs if command.many else runs[0], overrides)


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` words into dotted keys and plain values.

    Raises:
        ConfigurationError: If one is not of Hydra's grammar, deletes a key or has several values.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"{word!r} is not key=value: {reason} (command line)") from error
        if override.is_delete() or override.is_sweep_override():
            raise ConfigurationError(f"{word!r} does not give one value to a key; write key=value (command line)")
        overrides[override.key_or_group] = override.value()
    return overrides


def usage(name: str, command: Command) -> str:
    """Return the text of `etude COMMAND --help`."""
    runs = "RUN_OR_FOLDER…" if command.folders else "RUN…" if command.many else "RUN"
    texts = "".join(f' ["{key.upper()}"]' for key in command.texts)
    words = runs if name == "report" else f"{runs}{texts} [key=value…]"
    return (
        f"etude {name}: {command.help}.\n\nusage: etude {name} {words}\n\n"
        "RUN is a run's folder, EXPERIMENT/NAME below outputs, or last."
        f"{' A FOLDER, such as EXPERIMENT, is all runs in it.' if command.folders else ''} For example:\n\n"
        f"  etude {name} {command.example}\n"
        f"{_keys(command.keys)}"
    )


def _keys(keys: Mapping[str, str]) -> str:
    width = max(map(len, keys), default=0)
    lines = [f"  {key:<{width}}  {meaning}\n" for key, meaning in keys.items()]
    return "".join(["\n", *lines]) if lines else ""
