"""One member of a sweep on a node of a cluster: `python -P -m etude.cli.member`; never started by hand.

It reads its job as JSON from stdin, and writes how it ended as JSON to stdout. All that it says besides goes to stderr, which
whoever starts it points to the log in the member's folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress

from etude.cli.process import forget_working_directory
from etude.training.launch import LOST, end_with

_PR_SET_PDEATHSIG = 1
_MAX_REASON = 3000  # bytes: the pipe takes the line at once, whether or not it is read


def main() -> None:
    """Train the run of the job on stdin, and exit with its code."""
    job = json.load(sys.stdin)
    _die_with(int(job["parent"]))
    # Only now, since it takes seconds in which the parent may die.
    import torch

    from etude.cli.members import run_member
    from etude.console import configure_console

    answer = os.dup(1)
    os.dup2(2, 1)
    torch.set_num_threads(int(job["threads"]))
    configure_console()
    said = run_member(job)
    reason = said.reason.encode()[:_MAX_REASON].decode(errors="ignore")
    with suppress(OSError):  # who asked is gone
        os.write(answer, json.dumps({"code": said.code, "reason": reason}).encode())
    sys.exit(said.code)


def _die_with(parent: int) -> None:
    """End at once when the parent does: another attempt may begin right then, and needs the folder."""
    with suppress(OSError, AttributeError):
        # Of the thread that started this process, which waits for it. Linux only; the other watch works everywhere.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(LOST)
    end_with(parent)


if __name__ == "__main__":
    forget_working_directory()
    main()
