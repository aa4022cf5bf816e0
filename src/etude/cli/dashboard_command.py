"""`etude dashboard …`: of a run, of a sweep, or with `experiment=…` of all runs of an experiment."""

from __future__ import annotations

from collections.abc import Sequence

from etude.cli.command_table import Command, load
from etude.cli.run_commands import run_on_runs
from etude.cli.streams import data_stream, write_result
from etude.errors import defects

_EXPERIMENT = "etude.commands.dashboard.dashboards:dashboard_of_experiment"


def run_dashboard(command: Command, words: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Raises:
        EtudeError: What is wrong with the words, or what stopped the work.
    """
    composed = any(word.startswith("experiment=") for word in words)
    if not composed or "--help" in words or "-h" in words or any("=" not in word for word in words):
        return run_on_runs(command, words)
    with defects(), data_stream() as data:
        config = load("etude.config.compose:compose")(*words)
        write_result(load(_EXPERIMENT)(config), data)
    return 0
