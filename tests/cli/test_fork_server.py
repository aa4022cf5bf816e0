"""The process that forks members computes nothing itself, and ends when its sweep does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from etude.cli import fork_server


def test_it_says_that_it_is_ready_and_ends_with_the_socket() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", fork_server.__name__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    with ours.makefile() as lines:
        assert json.loads(lines.readline())["gpus"] >= 0
    threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    ours.close()
    assert process.wait(20) == 0
    assert threads == 1  # nothing that a fork would leave behind
