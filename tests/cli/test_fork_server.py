"""The process that forks members computes nothing itself, and ends when its sweep does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from etude.cli import fork_server


@pytest.mark.slow
@pytest.mark.parametrize("unread", [False, True])
def test_it_says_that_it_is_ready_and_ends_with_the_socket(unread: bool) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", fork_server.__name__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    theirs.close()
    if unread:  # as a sweep that is refused leaves it
        ours.recv(1, socket.MSG_PEEK)
        ours.close()
        assert process.communicate(timeout=20)[1] == b"" and process.returncode == 0
        return
    with ours.makefile() as lines:
        assert json.loads(lines.readline())["gpus"] >= 0
    threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    ours.close()
    assert process.wait(20) == 0
    assert threads == 1  # nothing that a fork would leave behind
