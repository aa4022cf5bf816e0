"""The entry point `etude COMMAND …`: an error ends in one line on stderr and an exit code, not in a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from etude import __version__
from etude.cli.command_table import find, load, overview
from etude.cli.process import forget_working_directory
from etude.cli.streams import drop_output, open_streams
from etude.config.trust import trust_of_the_command
from etude.console import configure_console
from etude.errors import ConfigurationError, DefectError, EtudeError, debugging, defects
from etude.signals import INTERRUPTED, StoppedError, stop_on_signals

READER_GONE = 141


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        words: Words after `etude` on the command line; None: those of this process, whose streams and import path are then
            made ready.
    """
    # Beside a busy neighbour, threads that wait for each other by spinning make a step many times longer.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Tensors in pages of 2 MB where the system gives them: a step of MiniLM on a CPU takes a fifteenth less time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        with stop_on_signals(), defects(), trust_of_the_command():
            if words is None:
                forget_working_directory()
                open_streams()
            configure_console()
            code = dispatch(sys.argv[1:] if words is None else words)
            sys.stdout.flush()
    except EtudeError as error:
        kind = "defect" if error.exit_code == DefectError.exit_code else "error"
        sys.stderr.write(f"etude: {kind}: {error}\n")
        if debugging():
            traceback.print_exception(error)
        return error.exit_code
    except StoppedError as stop:
        sys.stderr.write(f"etude: {stop}\n")
        return stop.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()
        return READER_GONE
    return code


def dispatch(words: Sequence[str]) -> int:
    """Run the command that the first word names with the words after it, and return the exit code.

    Raises:
        EtudeError: If there is no such command, or the command failed.
    """
    _require_working_directory()
    match words:
        case []:
            raise ConfigurationError("no command is given; etude --help lists them, for example: etude train")
        case ["--help" | "-h" | "help", *_]:
            sys.stdout.write(overview())
            return 0
        case ["--version", *_]:
            sys.stdout.write(f"etude {__version__}\n")
            return 0
        case ["-sc" | "--shell-completion", *rest]:
            return int(load("etude.cli.completion:complete")(rest))
    name, *rest = words
    command = find(name)
    # Imported when needed: Hydra takes as long as all the rest of `etude --help`.
    return int(load(command.runner)(command, rest))


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigurationError("the working directory no longer exists; change to one that does: cd") from error
