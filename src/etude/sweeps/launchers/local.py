"""Members beside each other on this machine: each a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from etude.errors import ConfigurationError, EtudeError
from etude.hardware import usable_cores
from etude.signals import SIGNALS
from etude.sweeps.launchers.base import Ending, Job, MemberLauncher

SERVER = "etude.cli.fork_server"
_CHUNK = 65536


class LocalLauncher(MemberLauncher):
    """Runs as many members at once as there are slots; a member with two devices takes two.

    On GPUs a slot is one GPU, and a member sees those of its slots alone. On CPUs the cores are divided among the slots.

    A process imports everything once, before it computes anything, and forks each member, which so starts in a fraction of a
    second. If this process is killed, that one kills all members; if that one is killed, the members end, and it is started
    anew. Members form sessions of their own: a terminal's Ctrl-C reaches this process alone.

    Args:
        slots: Number of slots; None: one for each GPU, or one.
    """

    def __init__(self, slots: int | None = None) -> None:
        if slots is not None and slots < 1:
            raise ConfigurationError(
                f"hydra.launcher.slots={slots}: at least one member runs at a time; write 1 or more"
            )
        self._asked = slots
        self._server: ForkServer | None = None
        self._gpus = 0
        self._taken: dict[int, list[int]] = {}
        self._processes: dict[int, int] = {}
        self._reasons: dict[int, str] = {}
        self._signals: dict[int, int] = {}

    @property
    def slots(self) -> int:
        """Number of slots."""
        if self._asked is None:
            self._started()  # which counts the GPUs
        return self._asked or max(1, self._gpus)

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return usable_cores()

    def _started(self) -> ForkServer:
        if self._server is None:
            self._server = ForkServer()
            self._gpus = int(self._server.first()["gpus"])
        return self._server

    def _free(self) -> list[int]:
        taken = {slot for slots in self._taken.values() for slot in slots}
        return [slot for slot in range(self.slots) if slot not in taken]

    def fits(self, devices: int) -> bool:
        """Return whether so many slots are free; a member that needs more than there are runs alone."""
        return len(self._free()) >= min(devices, self.slots)

    def start(self, job: Job) -> None:
        """Fork a member."""
        server = self._started()
        slots = self._free()[: job.devices]
        self._taken[job.number] = slots
        environment = {"OMP_NUM_THREADS": str(job.threads)}
        if self._gpus:
            names = _visible(self._gpus)
            # Of more slots than GPUs, several share one.
            own = dict.fromkeys(names[slot % len(names)] for slot in slots)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        server.send({**job.plain(), "environment": environment})

    def wait(self, seconds: float) -> list[Ending]:
        """Wait for messages of the server; if it is gone, all members are, and are lost."""
        if self._server is None:
            time.sleep(seconds)
            return []
        endings = []
        for message in self._server.receive(seconds):
            number = int(message["number"])
            if "process" in message:
                self._processes[number] = int(message["process"])
                if number in self._signals:
                    self.send(number, self._signals.pop(number))
            elif "reason" in message:
                self._reasons[number] = str(message["reason"])
            else:
                endings.append(Ending(number, int(message["code"]), self._reasons.pop(number, "")))
        if self._server.is_gone:
            lost = "the process that starts members was killed"
            endings += [
                Ending(number, -signal.SIGKILL, lost, lost=True)
                for number in self._taken
                if number not in {ending.number for ending in endings}
            ]
            self._server.close()
            self._server = None
        for ending in endings:
            self._taken.pop(ending.number, None)
            self._processes.pop(ending.number, None)
        return endings

    def send(self, number: int, signal_number: int) -> None:
        """Send a signal to a member's process, which passes it on to its ranks; if it is being forked, once it is there."""
        if number not in self._processes:
            self._signals[number] = signal_number
            return
        with suppress(ProcessLookupError):
            os.kill(self._processes[number], signal_number)

    def close(self) -> None:
        """End the server, which kills what still runs."""
        if self._server is not None:
            self._server.close()
            self._server = None


def _error_descriptor() -> int:
    """Return the file descriptor of stderr; that of this process where `sys.stderr` is no file, as in a notebook."""
    try:
        return sys.stderr.fileno()
    except io.UnsupportedOperation:
        return 2


class ForkServer:
    """The process that forks members, as this process sees it: lines of JSON over a pair of sockets."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # A signal of the terminal is for this process, which ends the members in good order.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=_error_descriptor(),
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        self._socket = ours
        self._read = b""
        self.is_gone = False

    def first(self) -> dict[str, Any]:
        """Wait for the message that says that everything is imported.

        Raises:
            EtudeError: If the process ends before that.
        """
        while not self.is_gone:
            for message in self.receive(1.0):
                return message
        raise EtudeError("the process that starts members ended before it was ready; what it said stands above")

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; one to a process that is gone is dropped."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.is_gone = True

    def receive(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the messages that come within so long; return as soon as there are some."""
        readable, _, _ = select.select([self._socket], [], [], seconds)
        if readable:
            try:
                chunk = self._socket.recv(_CHUNK)
            except OSError:
                chunk = b""
            self.is_gone = not chunk
            *lines, self._read = (self._read + chunk).split(b"\n")
            yield from map(json.loads, lines)

    def close(self) -> None:
        """Close the sockets: the process then kills what it forked, and ends."""
        self._socket.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _visible(gpus: int) -> list[str]:
    """Return the names of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:gpus] if visible else [str(index) for index in range(gpus)]
