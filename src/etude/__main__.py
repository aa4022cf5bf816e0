"""`python -m etude` is the same as `etude`."""

import sys

from etude.cli.process import forget_working_directory

if __name__ == "__main__":
    forget_working_directory()

    # Imported only now: a file of the working directory could stand in for any module that this loads.
    from etude.cli.main import main

    sys.exit(main())
