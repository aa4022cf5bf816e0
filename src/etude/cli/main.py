"""The door: `etude COMMAND …`. What a person can mend ends in one line on stderr and an exit code, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etude import __version__
from etude.cli.command_table import find, load, overview
from etude.cli.console import configure_console
from etude.cli.streams import drop_output
from etude.errors import ConfigurationError, EtudeError
from etude.signals import INTERRUPTED, StoppedError, stop_on_signals

READER_GONE = 141


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        words: What follows `etude` on the command line; None: as the process was started.
    """
    # Beside a busy neighbour, threads that wait for each other by spinning make a step many times longer.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Tensors in pages of 2 MB where the system gives them: a step of MiniLM on a CPU takes a fifteenth less time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    configure_console()
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m etude` does, so that both find a package under `trust`
        sys.path.append(here)
    try:
        with stop_on_signals():
            code = dispatch(sys.argv[1:] if words is None else words)
            sys.stdout.flush()
    except EtudeError as error:
        sys.stderr.write(f"etude: error: {error}\n")
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
    """Call the command that the first word names with the words after it; returns the exit code.

    Raises:
        EtudeError: If there is no such command, or what stopped it.
    """
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
    if rest and rest[0] in command.kinds:
        command = replace(command, target=command.kinds[rest.pop(0)])
    # Imported when needed: Hydra takes as long as everything else that `etude --help` does.
    if command.root is not None:
        return int(load("etude.cli.hydra_commands:run_composed")(command, rest))
    return int(load("etude.cli.run_commands:run_on_runs")(name, command, rest))
