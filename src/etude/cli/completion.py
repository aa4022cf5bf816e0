"""Completion in the shell: of commands, and of what each command takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from etude.cli.command_table import COMMANDS
from etude.cli.hydra_commands import run_composed
from etude.config.compose import CONF, Composer


def complete(words: Sequence[str]) -> int:
    """Answer `etude -sc install=bash`, `-sc uninstall=bash`, and the shell's `-sc query=bash`."""
    line = os.environ.get("COMP_LINE", "").split(" ")
    if not any(word.startswith("query=") for word in words):
        return run_composed(COMMANDS["train"], ["-sc", *words])
    command = COMMANDS.get(line[1]) if len(line) > 2 else None
    if len(line) <= 2:
        _suggest(COMMANDS)
    elif command is None or command.root is None:
        _suggest(["last", *(f"{key}=" for key in command.keys if not key.endswith("…"))] if command else ["last"])
    elif choices := _choices(command.root, line[-1]):
        _suggest(choices)
    else:
        with _command_line(" ".join([line[0], *(word for word in line[2:] if word not in command.kinds)])):
            return run_composed(command, ["-sc", *words])
    return 0


def _suggest(words: Iterable[str]) -> None:
    sys.stdout.write(" ".join(words) + "\n")


def _choices(root: str, word: str) -> list[str]:
    """Complete a group whose choices are in subfolders, which Hydra does not search."""
    composer = Composer(CONF, root)
    nested = {group: options for group in composer.groups() if "/" in "".join(options := composer.options(group))}
    group, equals, _ = word.partition("=")
    if equals:
        return [f"{group}={name}" for name in nested.get(group, ())]
    return [f"{name}=" for name in nested if word and name.startswith(word)]


@contextmanager
def _command_line(line: str) -> Iterator[None]:
    """Present Hydra with a command line without the command's own words."""
    before = os.environ["COMP_LINE"]
    os.environ["COMP_LINE"], os.environ["COMP_POINT"] = line, str(len(line))
    try:
        yield
    finally:
        os.environ["COMP_LINE"] = before
