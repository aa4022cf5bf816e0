"""Completion in the shell: of commands, runs, sweeps, keys, choices, and the filters of `etude runs`.

What needs Hydra is loaded only where Hydra is asked, since a person waits for each answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from etude.cli.command_table import COMMANDS, Command, load
from etude.cli.shell_scripts import INSTALL, UNINSTALL
from etude.errors import ConfigurationError, EtudeError

_OUTPUTS = "paths.outputs"
_ON_SWEEPS = ("status", "stop", "resume")
_FORMATS = ("table", "markdown", "csv", "json")
_VALUES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "runs": {"format": _FORMATS},
    "query": {"format": _FORMATS},
    "compare": {"format": ("markdown", "latex", "csv", "json")},
    "predict": {"format": ("text", "json", "jsonl"), "checkpoint": ("best", "last")},
    "evaluate": {"split": ("test", "val", "train"), "checkpoint": ("best", "last"), "track": ("true", "false")},
    "export": {"to": ("huggingface", "ctranslate2", "onnx"), "checkpoint": ("best", "last")},
    "inspect": {"symmetric": ("true", "false"), "checkpoint": ("best", "last")},
}
"""Values of options by command and option."""


def complete(words: Sequence[str]) -> int:
    """Answer `etude -sc install=bash`, `-sc uninstall=bash`, and the shell's `-sc query=bash`; also of zsh and fish.

    Raises:
        ConfigurationError: If it is none of these.
    """
    action, _, shell = (words[0] if words else "").partition("=")
    if shell not in INSTALL or action not in ("install", "uninstall", "query"):
        raise ConfigurationError(
            f"-sc takes install=SHELL, of {', '.join(INSTALL)}; write etude -sc install=bash (command line)"
        )
    if action != "query":
        sys.stdout.write((INSTALL if action == "install" else UNINSTALL)[shell])
        return 0
    found: dict[str, None] = {}
    with suppress(EtudeError):  # of a line that is not finished: there is no place for a message
        for word in candidates(os.environ.get("COMP_LINE", "")):
            found[word] = None
    sys.stdout.write("".join(f"{word}\n" for word in found))
    return 0


def candidates(line: str) -> Iterator[str]:
    """Yield what the last word of a line may become.

    Args:
        line: The line up to the cursor, `etude` included. After a space the last word is empty.
    """
    words = line.split()[1:] + ([""] if line.endswith(" ") else [])
    word = words[-1] if words else ""
    found: Iterable[str] = COMMANDS
    if len(words) > 1:
        found = _after(words[0], words[1:-1], word) if words[0] in COMMANDS else ()
    yield from (one for one in found if one.startswith(word))


def _after(name: str, before: Sequence[str], word: str) -> Iterator[str]:
    """Yield what may follow a command."""
    command = COMMANDS[name]
    key, equals, _ = word.partition("=")
    if not before and not equals:
        yield from command.kinds
    if equals and key in _VALUES.get(name, {}):
        yield from (f"{key}={value}" for value in _VALUES[name][key])
    elif name == "runs":
        yield from _of_filters(command, before, word)
    elif name == "sweep" and before[:1] and before[0] in _ON_SWEEPS:
        yield from ("last", *_names(_sweeps(before)), f"{_OUTPUTS}=")
    elif command.browses:
        yield from (f"{option}=" for option in command.options)
    elif command.root is None:
        yield from _on_runs(command, before, word)
    else:
        yield from _composed(command, before, word)


def _outputs(words: Sequence[str]) -> Path:
    given = [word.partition("=")[2] for word in words if word.startswith(f"{_OUTPUTS}=")]
    return Path(given[-1] if given else "outputs").expanduser()


def _runs(words: Sequence[str]) -> list[str]:
    outputs = _outputs(words)
    return [path.relative_to(outputs).as_posix() for path in load("etude.runs.folder:runs_in")(outputs)]


def _sweeps(words: Sequence[str]) -> list[str]:
    outputs = _outputs(words)
    return sorted(
        Path(parent).relative_to(outputs).as_posix() for parent, _, files in os.walk(outputs) if "sweep.json" in files
    )


def _names(folders: Iterable[str]) -> Iterator[str]:
    """Yield folders below that of all runs as they can be typed."""
    yield from (folder for folder in folders if " " not in folder)


def _on_runs(command: Command, before: Sequence[str], word: str) -> Iterator[str]:
    """Yield runs, sweeps and keys of a command on runs."""
    named = [one for one in before if "=" not in one]
    key, equals, _ = word.partition("=")
    if (command.many or not named) and not equals:
        runs = _runs(before)
        yield from ("last", *_names(runs))
        if command.folders:
            yield from _names(sorted({run.rpartition("/")[0] for run in runs}))
        if command.sweeps:
            yield from _names(_sweeps(before))
    yield from (f"{one}=" for one in command.keys if not one.endswith("…"))
    groups = [one.removesuffix("…") for one in command.changes if one.endswith("…")]
    if equals and key in groups:
        composer = load("etude.config.compose:Composer")(load("etude.config.compose:CONF"), "train")
        yield from (f"{key}={name}" for name in composer.options(key))
    elif named and word:
        yield from (f"{one}=" for one in _keys_of(named[0], before) if one.split(".")[0] in groups)
    yield from (f"{group}=" for group in groups if not word or group.startswith(word))


def _keys_of(run: str, before: Sequence[str]) -> Iterator[str]:
    """Yield the dotted keys of a run's configuration."""
    folder = load("etude.runs.folder:resolve")(run, _outputs(before))
    yield from load("etude.config.values:flat")(load("etude.config.stored:stored_values")(folder / "config.yaml"))


def _of_filters(command: Command, before: Sequence[str], word: str) -> Iterator[str]:
    """Yield what `etude runs` takes: options, and keys with the values that some run has."""
    if before[:1] == ["diff"]:
        yield from ("last", *_names(_runs(before)), "format=", f"{_OUTPUTS}=")
        return
    filter_key, sign, _ = load("etude.commands.browse.filters:partly_typed")(word)
    inventory = load("etude.commands.browse.inventory:read_inventory")(_outputs(before).resolve())
    if not sign:
        yield from (f"{option}=" for option in command.options)
        yield from (f"{key}=" for key in load("etude.commands.browse.listing:keys_of")(inventory))
    elif filter_key in ("sort", "columns"):
        start = word[: max(word.rfind("="), word.rfind(","), word.rfind("-")) + 1]
        yield from (f"{start}{key}" for key in load("etude.commands.browse.listing:keys_of")(inventory))
    else:
        values = load("etude.commands.browse.listing:values_of")(inventory, filter_key)
        yield from (f"{filter_key}{sign}{value}" for value in values if " " not in value)


def _composed(command: Command, before: Sequence[str], word: str) -> Iterator[str]:
    """Yield what a command that composes takes: choices in folders, runs to start from, and all that Hydra finds."""
    key, equals, _ = word.partition("=")
    if equals and key == "start":
        yield from (f"{key}={run}" for run in _names(_runs(before)))
        return
    composer = load("etude.config.compose:Composer")(load("etude.config.compose:CONF"), command.root or "")
    nested = [group for group in composer.groups() if any("/" in option for option in composer.options(group))]
    if equals and key in nested:
        yield from (f"{key}={name}" for name in composer.options(key))
        return
    if word and (groups := [group for group in nested if group.startswith(word)]):
        yield from (f"{group}=" for group in groups)
        return
    line = " ".join(["etude", *(one for one in before if one not in command.kinds), word])
    text = StringIO()
    with _command_line(line), redirect_stdout(text):
        load("etude.cli.hydra_commands:run_composed")(command, ["-sc", "query=bash"])
    yield from text.getvalue().split()


@contextmanager
def _command_line(line: str) -> Iterator[None]:
    """Present Hydra with a command line without the command's own words."""
    before = {name: os.environ.get(name) for name in ("COMP_LINE", "COMP_POINT")}
    os.environ["COMP_LINE"], os.environ["COMP_POINT"] = line, str(len(line))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
