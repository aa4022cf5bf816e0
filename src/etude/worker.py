"""One rank of a run: `python -m etude.worker RUN`. Started by `etude.experiment.launch`, never by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from etude.console import configure_console
from etude.experiment.launch import as_rank, global_rank
from etude.experiment.run import fit
from etude.memory import memory_errors


def main() -> None:
    """Train the run of the folder that is given."""
    configure_console(global_rank())
    with as_rank(), memory_errors():
        fit(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
