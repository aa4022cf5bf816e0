"""`etude sweep …`: a sweep from words, or with `status`, `stop` and `resume` one that exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etude.cli.command_table import Command, load
from etude.cli.hydra_commands import run_sweep_command
from etude.cli.run_commands import take_folder
from etude.cli.streams import data_stream, write_result
from etude.errors import ConfigurationError, defects
from etude.sweeps.saved_sweep import SavedSweep, resolve_sweep

_EXISTING = {
    "status": "show the members of a sweep, and what has become of each",
    "stop": "ask the process that runs a sweep to stop; its members save first",
    "resume": "go on with a sweep; key=value changes its length or the machine: sweep.trials=40 hydra.launcher.slots=2",
}


def run_on_sweeps(command: Command, words: Sequence[str]) -> int:
    """Run `etude sweep` and return the exit code.

    Raises:
        EtudeError: What is wrong with the words, or which members failed.
    """
    kind = words[0] if words and words[0] in command.kinds else None
    if kind not in _EXISTING:
        chosen = command if kind is None else replace(command, target=command.kinds[kind])
        return run_sweep_command(chosen, words[1:] if kind else words)
    rest = list(words[1:])
    if "--help" in rest or "-h" in rest:
        sys.stdout.write(usage(kind))
        return 0
    rest, _ = take_folder(rest)
    named = [word for word in rest if "=" not in word]
    given = [word for word in rest if "=" in word]
    if len(named) != 1:
        raise ConfigurationError(f"etude sweep {kind} takes one sweep: a folder, its name, or last (command line)")
    outputs = next((word.partition("=")[2] for word in given if word.startswith("paths.outputs=")), "outputs")
    if kind != "resume" and (unknown := [word for word in given if not word.startswith("paths.outputs=")]):
        raise ConfigurationError(
            f"etude sweep {kind} does not take {unknown[0]}; it takes paths.outputs=FOLDER (command line)"
        )
    sweep = SavedSweep.open(resolve_sweep(named[0], Path(outputs).expanduser()))
    with defects(), data_stream() as data:
        function = load(command.kinds[kind])
        write_result(function(sweep, given) if kind == "resume" else function(sweep), data)
    return 0


def usage(kind: str) -> str:
    """Return the text of `etude sweep KIND --help`."""
    keys = " [key=value…]" if kind == "resume" else ""
    return (
        f"etude sweep {kind}: {_EXISTING[kind]}.\n\nusage: etude sweep {kind} SWEEP{keys}\n\n"
        f"SWEEP is a sweep's folder, EXPERIMENT/NAME below outputs, its name, or last. For example:\n\n"
        f"  etude sweep {kind} last\n"
    )
