"""`etude bench`: a bench of training or of decoding, or two files of benches beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etude.cli.command_table import Command
from etude.cli.hydra_commands import run_composed
from etude.cli.streams import data_stream, write_result
from etude.commands.bench.bench_comparison import SLOWER, compare_benches, plain, show
from etude.errors import ConfigurationError, defects

USAGE = """etude bench compare: which ratios differ by more than their rounds do.

usage: etude bench compare OLD NEW

OLD and NEW are files that make bench wrote. The table goes to stderr, a JSON object to stdout; the exit code is 3 if
something has become slower. For example:

  etude bench compare build/before.jsonl build/bench.jsonl
"""


def run_bench(command: Command, words: Sequence[str]) -> int:
    """Run the bench that the first word names, and return the exit code.

    Raises:
        EtudeError: What is wrong with the words, or what stopped the work.
    """
    kind, rest = (words[0], words[1:]) if words and words[0] in command.kinds else ("train", words)
    if kind == "compare":
        return run_comparison(rest)
    return run_composed(replace(command, target=command.kinds[kind]), rest)


def run_comparison(words: Sequence[str]) -> int:
    """Compare the two files that the words name, and return the exit code.

    Raises:
        EtudeError: If the words are no two files of benches.
    """
    if "--help" in words or "-h" in words:
        sys.stdout.write(USAGE)
        return 0
    if len(words) != 2 or any("=" in word or word.startswith("-") for word in words):
        raise ConfigurationError(
            "etude bench compare takes two files, OLD and NEW, that make bench wrote (command line)"
        )
    with defects(), data_stream() as data:
        changes = compare_benches(Path(words[0]), Path(words[1]))
        show(changes)
        result = plain(changes)
        write_result(result, data)
    return SLOWER if result["slower"] else 0
