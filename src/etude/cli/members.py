"""The members of a sweep as processes: forked one by one, and what each does."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from etude.commands.train import train
from etude.config.schema import Config
from etude.config.trust import trust
from etude.console import configure_console
from etude.errors import EtudeError, debugging, defects, memory_errors
from etude.signals import PARENT, SIGNALS, StoppedError, stop_on_signals
from etude.sweeps.launchers.base import LOG, PRUNING
from etude.training.launch import end_with

_MAX_REASON = 3000  # bytes: with the rest of its line short enough for one atomic write
_CHUNK = 65536


class Said(NamedTuple):
    """How the work of a member ended.

    Attributes:
        code: Exit code.
        reason: What it says; empty if all went well.
    """

    code: int
    reason: str = ""


def run_member(job: Mapping[str, Any]) -> Said:
    """Train the run of a member in this process.

    Args:
        job: A `Job` as plain values; see `etude.sweeps.launchers.base`.
    """
    os.environ[PRUNING] = str(int(job["prunes"]))
    try:
        with stop_on_signals(), defects(Path(job["folder"])), memory_errors():
            trust(job["trust"])
            train(Config.of(job["values"], job["overrides"]))
    except EtudeError as error:
        sys.stderr.write(f"etude: error: {error}\n")
        if debugging():
            traceback.print_exception(error)
        return Said(error.exit_code, str(error))
    except StoppedError as stop:
        sys.stderr.write(f"etude: {stop}\n")
        return Said(stop.exit_code, str(stop))
    return Said(0)


class ForkedMembers:
    """Forks members on request.

    Args:
        descriptor: Of the socket to the sweep.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._numbers: dict[int, int] = {}
        self._read = b""

    def serve(self) -> None:
        """Fork and reap members until the other end of the socket is closed."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._say(gpus=torch.cuda.device_count())  # counted without opening one
        while True:
            readable, _, _ = select.select([self._socket.fileno(), woken], [], [])
            if woken in readable:
                os.read(woken, _CHUNK)
                self._reap()
            if self._socket.fileno() in readable:
                try:
                    chunk = self._socket.recv(_CHUNK)
                except ConnectionError:  # closed before all that was said here was read
                    break
                if not chunk:
                    break
                *lines, self._read = (self._read + chunk).split(b"\n")
                for line in lines:
                    self._fork(json.loads(line))
        self._kill()

    def _say(self, **message: Any) -> None:
        with suppress(OSError):  # the sweep is gone, which the next read tells
            self._socket.sendall(json.dumps({"number": -1, **message}).encode() + b"\n")

    def _fork(self, job: Mapping[str, Any]) -> None:
        number = int(job["number"])
        parent = os.getpid()
        process = os.fork()
        if process:
            self._numbers[process] = number
            self._say(number=number, process=process)
            return
        code = 1
        try:
            _begin(job, parent)
            said = run_member(job)
            code = said.code
            if said.reason:
                self._say(number=number, reason=said.reason.encode()[:_MAX_REASON].decode(errors="ignore"))
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._numbers:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            number = self._numbers.pop(process, None)
            if number is not None:
                self._say(number=number, code=os.waitstatus_to_exitcode(status))

    def _kill(self) -> None:
        for process in self._numbers:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)


def _begin(job: Mapping[str, Any], parent: int) -> None:
    """Make a forked process the member's own: session, streams, signals, threads."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked while the process that forks was started
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop(PARENT, None)
    os.environ.update(job["environment"])
    torch.set_num_threads(int(job["threads"]))
    end_with(parent)
    configure_console()
