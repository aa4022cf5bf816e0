"""`etude bench compare`: two files of benches, beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from etude.cli.streams import data_stream, write_result
from etude.commands.bench.bench_comparison import command
from etude.errors import defects

USAGE = """etude bench compare: which ratios differ by more than their rounds do.

usage: etude bench compare OLD NEW

OLD and NEW are files that make bench wrote. The table goes to stderr, a JSON object to stdout; the exit code is 3 if
something has become slower. For example:

  etude bench compare build/before.jsonl build/bench.jsonl
"""


def run_comparison(words: Sequence[str]) -> int:
    """Compare the two files that the words name, and return the exit code.

    Raises:
        EtudeError: If the words are no two files of benches.
    """
    if "--help" in words or "-h" in words:
        sys.stdout.write(USAGE)
        return 0
    with defects(), data_stream() as data:
        changes, code = command(words)
        write_result(changes, data)
    return code
