"""Commands on runs that exist: resume, evaluate, compare, predict, inspect, export, reproduce, replay, report."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

from etude.cli.command_table import Command, find, load
from etude.cli.streams import data_stream, standard_input, write_result
from etude.config.change import read_overrides, with_choices
from etude.config.trust import as_packages, trust
from etude.errors import ConfigurationError, EtudeError, defects, memory_errors
from etude.runs.folder import resolve, resolve_all
from etude.sweeps.saved_sweep import SavedSweep, resolve_sweep
from etude.sweeps.sweep_documents import SWEEP

_log = logging.getLogger(__name__)
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")

NOT_IDENTICAL = 3
"""Exit code of a reproduction that came to something else."""

OUTPUTS = "paths.outputs"
"""The folder of all runs, where a command looks for them."""

_NO_TEXT = re.compile(r"--?[A-Za-z][\w-]*$|[+~]*[\w./]+=")
"""An option or a key with its value."""

_FOLDER = re.compile(r"--config-dir(=|$)")


def run_on_runs(command: Command, words: Sequence[str]) -> int:
    """Call a command's function with the runs and overrides of the command line; returns the exit code.

    Raises:
        EtudeError: If the words do not fit the command, or what stopped the work.
    """
    name = command.name
    if "--help" in words or "-h" in words:
        sys.stdout.write(usage(command))
        return 0
    words, folder = take_folder(words)
    words, texts = take_texts(command, words)
    overrides = {**read_overrides([word for word in words if "=" in word]), **texts}
    trust(as_packages(overrides.pop("trust", [])))
    if folder is not None:
        overrides = with_choices(overrides, folder)
    outputs = Path(str(overrides.get(OUTPUTS, "outputs"))).expanduser()
    named = [word for word in words if "=" not in word]
    option = next((word for word in named if word.startswith("-")), None)
    if option is not None:
        raise ConfigurationError(f"{option} is not an option of etude {name}; write RUN and key=value (command line)")
    if not named:
        raise ConfigurationError(f"etude {name} needs a RUN: a folder, or last; for example: etude {name} last")
    if len(named) > 1 and not command.many:
        raise ConfigurationError(f"etude {name} takes one RUN, not {len(named)}: {' '.join(named)} (command line)")
    keyword_arguments(name, overrides)  # wrong keys are refused before a run is looked for
    paths = named_folders(command, named, outputs)
    with defects(paths[0] if len(paths) == 1 else None), data_stream() as data, memory_errors():
        result = call(name, paths, overrides, data, standard_input() if name == "predict" else None)
        write_result(result, data)
    return NOT_IDENTICAL if isinstance(result, Mapping) and result.get("identical") is False else 0


def named_folders(command: Command, named: Sequence[str], outputs: Path) -> list[Path]:
    """Return the folders of the runs, or that of the sweep, that the words after a command name.

    Raises:
        ConfigurationError: If there is none of a name; of several, if there is none of any, where the command leaves out.
    """
    sweep = find_sweep(command, named, outputs)
    if sweep is not None:
        return [sweep]
    if command.folders:
        found = those_that_can(lambda word: resolve_all(word, outputs), named, command.leaves_out)
        return list(dict.fromkeys(path for some in found for path in some))
    return those_that_can(lambda word: resolve(word, outputs), named, command.leaves_out)


def those_that_can(function: Callable[[_Given], _Made], given: Sequence[_Given], leaves_out: bool) -> list[_Made]:
    """Return what a function makes of each of some things.

    Args:
        function: Called with each.
        given: The things.
        leaves_out: Whether those that it refuses are said in a line each and left out, where others remain.

    Raises:
        EtudeError: What the function raises first: of none left, or where nothing is left out.
    """
    made: list[_Made] = []
    errors: list[EtudeError] = []
    for one in given:
        try:
            made.append(function(one))
        except EtudeError as error:
            if not leaves_out or len(given) == 1:
                raise
            errors.append(error)
    if errors and not made:
        raise errors[0]
    for refused in errors:
        _log.warning("left out: %s", refused)
    return made


def find_sweep(command: Command, named: Sequence[str], outputs: Path) -> Path | None:
    """Return the folder of the sweep that the only word after a command names; None if it is for runs.

    Args:
        command: The command.
        named: The words.
        outputs: Folder of all runs.
    """
    if not command.sweeps or len(named) != 1:
        return None
    folders = [folder for folder in (outputs / named[0], Path(named[0]).expanduser()) if folder.is_dir()]
    if named[0] == "last":
        if not command.folders:  # one run is something to report, but nothing to compare
            return None
    elif folders and not any((folder / SWEEP).is_file() for folder in folders):
        return None
    try:
        return resolve_sweep(named[0], outputs)
    except ConfigurationError:
        return None


def call(
    name: str,
    paths: Sequence[Path],
    overrides: Mapping[str, Any],
    data: TextIO | None = None,
    lines: BinaryIO | None = None,
) -> Any:
    """Call the function of a command on runs, and return what it returns.

    Args:
        name: The command's name.
        paths: Folders of the runs, or that of a sweep.
        overrides: Keys and values, as they were typed: the function's options, and changes of the configuration.
        data: Where `predict` writes its answers.
        lines: What `predict` reads.

    Raises:
        EtudeError: If a key is none of the command's, or what stopped the work.
    """
    command = find(name)
    arguments = keyword_arguments(name, overrides)
    if command.sweeps and len(paths) == 1 and (paths[0] / SWEEP).is_file():
        return load(command.sweeps)(SavedSweep.open(paths[0]), **arguments)
    function = command.function()
    if name == "report":
        return function(paths)
    saved_run: Any = load("etude.runs.saved_run:SavedRun")
    runs = those_that_can(saved_run.open, paths, command.leaves_out)
    if name == "predict":
        return function(runs[0], lines, data, **arguments)
    return function(runs if command.many else runs[0], **arguments)


def keyword_arguments(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a command's function is given of the keys and values that were typed.

    Raises:
        ConfigurationError: If a key is none of the command's.
    """
    command = find(name)
    arguments: dict[str, Any] = {}
    changes = {key: value for key, value in overrides.items() if key not in command.options}
    if command.changes:
        arguments["changes"] = changes
    elif unknown := next((key for key in changes if key != OUTPUTS), None):
        keys = " ".join(f"{key}=" for key in command.options if key != OUTPUTS) or "no key=value"
        raise ConfigurationError(f"etude {name} does not know {unknown}; it takes {keys} (command line)")
    options = {key: value for key, value in overrides.items() if key in command.options and key != OUTPUTS}
    return arguments | {key.rpartition(".")[2]: value for key, value in options.items()}


def take_folder(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Separate `--config-dir FOLDER`, a folder of one's own configuration groups, from the other words.

    Raises:
        ConfigurationError: If no folder follows.
    """
    rest, folder = list(words), None
    while (place := next((place for place, word in enumerate(rest) if _FOLDER.match(word)), None)) is not None:
        _, equals, value = rest.pop(place).partition("=")
        if not equals and place < len(rest):
            value = rest.pop(place)
        if not value:
            raise ConfigurationError("--config-dir needs a folder; write --config-dir FOLDER (command line)")
        folder = Path(value).expanduser()
    return rest, folder


def take_texts(command: Command, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separate the texts of a command from its other words: those after the RUN, and `text=…` as it is written.

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
                f"etude {command.name} takes {' and '.join(command.texts)} after RUN, but {word!r} is one more; write each text "
                "in quotes (command line)"
            )
    return rest, texts


def usage(command: Command) -> str:
    """Return the text of `etude COMMAND --help`."""
    name = command.name
    runs = "RUN_OR_FOLDER…" if command.folders else "RUN…" if command.many else "RUN"
    runs += "|SWEEP" if command.sweeps else ""
    texts = "".join(f' ["{key.upper()}"]' for key in command.texts)
    words = runs if name == "report" else f"{runs}{texts} [key=value…]"
    return (
        f"etude {name}: {command.help}.\n\nusage: etude {name} {words}\n\n"
        "RUN is a run's folder, EXPERIMENT/NAME below outputs, or last."
        f"{' A FOLDER, such as EXPERIMENT, is all runs in it.' if command.folders else ''}"
        f"{' A SWEEP is its folder or its name.' if command.sweeps else ''} For example:\n\n"
        f"  etude {name} {command.example}\n"
        f"{keys_text(command.keys)}"
    )


def keys_text(keys: Mapping[str, str]) -> str:
    """Return keys and what they mean, a line each."""
    width = max(map(len, keys), default=0)
    lines = [f"  {key:<{width}}  {meaning}\n" for key, meaning in keys.items()]
    return "".join(["\n", *lines]) if lines else ""
