"""One rank of a run: `python -m etude.cli.worker RUN`. Started by `etude.training.launch`, never by hand."""

import sys
from pathlib import Path

from etude.cli.process import forget_working_directory


def main() -> None:
    """Train the run of the folder that is given."""
    # Imported only now: a file of the working directory could stand in for any module that these load.
    from etude.console import configure_console
    from etude.errors import defects, memory_errors
    from etude.runs.saved_run import SavedRun
    from etude.training.fit import fit
    from etude.training.launch import as_rank, global_rank

    configure_console(global_rank())
    folder = Path(sys.argv[1])
    with as_rank(), defects(folder), memory_errors():
        fit(SavedRun.open(folder))


if __name__ == "__main__":
    forget_working_directory()
    main()
