"""The process that forks the members of a sweep: `python -m etude.cli.fork_server DESCRIPTOR`; never started by hand.

It imports everything that a training needs and computes nothing, so that no thread runs in it and no GPU is open when it
forks. It reads a line of JSON for each member, and writes one with the member's process, one with what the member said if
it failed, and one with its exit code. When the other end of the socket is closed, it kills what it forked and ends.
"""

import sys

from etude.cli.process import forget_working_directory


def main() -> None:
    """Serve until the sweep is gone."""
    # Imported only now: a file of the working directory could stand in for any module that these load.
    from etude.cli.members import ForkedMembers

    ForkedMembers(int(sys.argv[1])).serve()


if __name__ == "__main__":
    forget_working_directory()
    main()
