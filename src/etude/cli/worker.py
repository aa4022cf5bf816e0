"""One rank of a run: `python -m etude.cli.worker RUN`. Started by `etude.training.launch`, never by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from etude.cli.console import configure_console
from etude.errors import memory_errors
from etude.training.fit import fit
from etude.training.launch import as_rank, global_rank


def main() -> None:
    """Train the run of the folder that is given."""
    configure_console(global_rank())
    with as_rank(), memory_errors():
        fit(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
