"""`etude runs`, `etude runs diff`, `etude query` and `etude schema`: commands that take no one RUN."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.cli.command_table import Command, load
from etude.cli.run_commands import OUTPUTS, keys_text, take_folder
from etude.cli.streams import data_stream, write_result
from etude.errors import ConfigurationError, DataError, defects
from etude.runs.folder import resolve

DIFF = "diff"
"""Word after `etude runs` that compares two of them."""

_DIFF_OPTIONS = ("format", OUTPUTS)
_USAGE = {
    "runs": (
        "[FILTER…] [key=value…]\n       etude runs diff RUN RUN [format=…]",
        "FILTER is a key, one of = != < <= > >= and a value, in quotes where the shell would read it: 'val/bleu>30'. Keys are\n"
        "run, task, experiment, kind, sweep, state, score, seconds, energy, age, step, tokens and the like; the dotted keys of\n"
        "configurations, optimizer.lr; and the names of metrics, val/bleu, test/bleu, train/loss. All must hold.\n"
        "State is begun, prepared, running, interrupted, failed, pruned or finished. age<2d and seconds>10min have units.",
    ),
    "query": (
        '["SELECT …"] [key=value…]',
        "Without a statement it shows the tables: runs, config, metrics and scores.",
    ),
    "schema": (
        "[--config-dir FOLDER] > FILE",
        "The schema is of files in conf/experiment/. It knows groups, choices and keys, also those of a folder of one's own.",
    ),
}


def browse(command: Command, words: Sequence[str]) -> int:
    """Run one of the commands and return the exit code: 65 if a folder could not be read.

    Raises:
        EtudeError: What is wrong with the words.
    """
    name = command.name
    if "--help" in words or "-h" in words:
        sys.stdout.write(browse_usage(command))
        return 0
    rest, folder = take_folder(words) if name == "schema" else (list(words), None)
    option = next((word for word in rest if word.startswith("-")), None)
    if option is not None:
        raise ConfigurationError(
            f"{option} is not an option of etude {name}; etude {name} --help says more (command line)"
        )
    options, others = _options(command, rest)
    outputs = Path(options.pop(OUTPUTS, "outputs")).expanduser()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    problems: list[str] = []
    with defects(), data_stream() as data:
        if name == "schema":
            result = _schema(command, others, folder)
        elif name == "query":
            answer = load(command.target)(" ".join(others), outputs, width=width, **options) if others else None
            result, problems = (load(_TABLES)(), []) if answer is None else (answer.text, answer.problems)
        elif others[:1] == [DIFF]:
            result = _diff(command, others[1:], outputs, options, width)
        else:
            listing = load(command.target)(others, outputs, width=width, **options)
            result, problems = listing.text, listing.problems
        write_result(result, data)
    for problem in problems:
        sys.stderr.write(f"etude: {problem}\n")
    return DataError.exit_code if problems else 0


_TABLES = "etude.commands.browse.query:tables_text"


def _options(command: Command, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separate the options of a command from its other words."""
    options: dict[str, str] = {}
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in command.options:
            options[key] = value
        else:
            others.append(word)
    return options, others


def _diff(command: Command, words: Sequence[str], outputs: Path, options: dict[str, str], width: int | None) -> Any:
    wrong = next((f"{key}={value}" for key, value in options.items() if key not in _DIFF_OPTIONS), None)
    wrong = wrong or next((word for word in words if "=" in word), None)
    if wrong is not None:
        raise ConfigurationError(
            f"etude runs diff does not take {wrong}; it takes format= and {OUTPUTS}= (command line)"
        )
    if len(words) != 2:
        raise ConfigurationError(f"etude runs diff takes two RUNs, not {len(words)}: folders, or last (command line)")
    first, second = (resolve(word, outputs) for word in words)
    return load(command.kinds[DIFF])(first, second, outputs.resolve(), width=width, **options)


def _schema(command: Command, words: Sequence[str], folder: Path | None) -> Any:
    if words:
        raise ConfigurationError(f"etude schema does not take {words[0]}; it takes --config-dir FOLDER (command line)")
    return load(command.target)(folder)


def browse_usage(command: Command) -> str:
    """Return the text of `etude COMMAND --help`."""
    name = command.name
    words, meaning = _USAGE[name]
    tables = f"\n{load(_TABLES)()}".rstrip("\n") + "\n" if name == "query" else ""
    return (
        f"etude {name}: {command.help}.\n\nusage: etude {name} {words}\n\n{meaning} For example:\n\n"
        f"  etude {name} {command.example}\n{keys_text(command.keys)}{tables}"
    )
