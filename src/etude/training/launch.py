"""Launch of the processes that train together on one machine.

The command starts one process per rank, with the variables of the rendezvous set for the child only. Each reads the run's
configuration from its folder, so a sweep, a failure or another number of devices cannot mix two runs. Under torchrun, SLURM
or another launcher nothing is started: its environment is respected.

A rank that fails reports the reason through a pipe, and the command prints it once; a rank of another launcher prints it
itself. The ranks form process groups of their own: a terminal's Ctrl-C reaches the command alone, which passes it on. If the
command is killed, its ranks notice that their parent has changed, and exit.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from etude.config.trust import VARIABLE, trusted
from etude.errors import EtudeError
from etude.runs.lock import RunLock
from etude.signals import INTERRUPTED, PARENT, SIGNALS, TERMINATED, StoppedError, stop_on_signals

STOP_SECONDS, FAILURE_SECONDS = 15.0, 3.0
"""Seconds that ranks have to exit by themselves after a signal has stopped one of them, and after one has failed."""

LOST = 69
"""Exit code of a rank that ended because another rank is gone: a consequence, so its message is not printed."""

_REPORTS = "ETUDE_REPORTS"
_MAX_MESSAGE_LENGTH = 3000  # bytes: with the rest of its line it is short enough for one atomic write to a pipe


class Report(NamedTuple):
    """Why a rank ended before its work was done.

    Attributes:
        code: Exit code of the rank.
        message: Error message for the user.
    """

    code: int
    message: str


def started_outside() -> bool:
    """Whether a launcher such as torchrun or SLURM started this process as one rank of several."""
    in_slurm_step = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return "LOCAL_RANK" in os.environ or in_slurm_step


def global_rank() -> int:
    """Return this process's global rank from the launcher's variables; 0 without a launcher."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


# The command's side


def launch(run: Path, devices: int, lock: RunLock) -> None:
    """Train a run in `devices` processes and wait for them.

    A signal to this process is passed on to all ranks. When one rank fails, the others are ended. The ranks share the lock
    with this process: if it is killed, no other process enters the folder while they still write.

    Raises:
        StoppedError: If the ranks saved and exited after a signal.
        EtudeError: The error of the rank that failed first, with its exit code.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        _send(ranks, number)

    # Signals are blocked until the handlers are installed; the ranks inherit that and unblock them in `as_rank`.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        ranks.extend(_start(run, variables, [lock.fileno(), writing]) for variables in _environments(devices, writing))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        failed = _wait(ranks)
        codes = _end(ranks, gently=failed in (INTERRUPTED, TERMINATED))
        if failed:
            raise _cause(run, codes, _read_reports(reading))
    finally:
        _end(ranks, gently=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _environments(devices: int, reports: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables of each rank."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(devices),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices))),
        PARENT: str(os.getpid()),
        VARIABLE: ",".join(trusted()),
        _REPORTS: str(reports),
    }
    for rank in range(devices):
        yield {**shared, "LOCAL_RANK": str(rank), "RANK": str(rank)}


def _start(run: Path, variables: dict[str, str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    # -P: nothing is imported from the working directory but what trust names.
    command = [sys.executable, "-P", "-m", "etude.cli.worker", str(run)]
    return subprocess.Popen(command, env=variables, pass_fds=descriptors, process_group=0)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all ranks have ended with success, or one has failed; return its exit code, or 0."""
    while True:
        codes = [process.poll() for process in ranks]
        failed = next((code for code in codes if code), 0)
        if failed or all(code == 0 for code in codes):
            return failed
        time.sleep(0.05)


def _end(ranks: list[subprocess.Popen[bytes]], *, gently: bool) -> list[int | None]:
    """Wait briefly for the remaining ranks, then kill them. Gently: send SIGTERM first, and wait longer.

    Returns:
        The exit code of each rank; None if it was killed here.
    """
    if gently:
        _send(ranks, signal.SIGTERM)
    deadline = time.monotonic() + (STOP_SECONDS if gently else FAILURE_SECONDS)
    codes: list[int | None] = []
    for process in ranks:
        try:
            codes.append(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            codes.append(None)
    return codes


def _send(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in ranks:
        if process.poll() is None:
            process.send_signal(number)


def _read_reports(descriptor: int) -> list[Report]:
    """Return the reports of the ranks in chronological order."""
    try:
        lines = os.read(descriptor, 1 << 16).splitlines()
    except BlockingIOError:
        return []
    return [Report(**json.loads(line)) for line in lines]


def _cause(run: Path, codes: list[int | None], reports: list[Report]) -> EtudeError | StoppedError:
    """Return the error that a command with one process would have raised, or the way a rank ended that reported nothing."""
    report = next((report for report in reports if report.code != LOST), None)
    silent = [(rank, code) for rank, code in enumerate(codes) if code not in (None, 0, LOST)]
    if report is not None:
        code, message = report
    elif INTERRUPTED in codes:
        code, message = INTERRUPTED, f"stopped at once by a second SIGINT; continue with: etude resume {run}"
    elif silent:
        rank, code = min(silent, key=lambda item: item[1])  # a signal comes before the crash that it causes elsewhere
        code, message = (code, _fate(code)) if code > 0 else (128 - code, _fate(code))
        message = f"rank {rank} of {len(codes)} {message}; the others were ended; continue with: etude resume {run}"
    else:
        code, message = LOST, reports[0].message if reports else "the ranks lost each other"
    if code in (INTERRUPTED, TERMINATED):
        return StoppedError(signal.SIGINT if code == INTERRUPTED else signal.SIGTERM, message)
    error = EtudeError(message)
    error.exit_code = code
    return error


def _fate(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL; is the machine out of memory?)"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}, for the reason above"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


# A rank's side


@contextmanager
def as_rank() -> Iterator[None]:
    """Make this process a rank of its parent: handle signals, report why it fails, exit when the parent is gone.

    Raises:
        SystemExit: After an error was reported to the parent, which prints it.
    """
    end_with(int(os.environ[PARENT]))
    try:
        with stop_on_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            yield
    except (EtudeError, StoppedError) as error:
        report_error(error)
        sys.exit(error.exit_code)


def report_error(error: EtudeError | StoppedError) -> None:
    """Report why this rank ends: to the command that started it, which prints it, or, under another launcher, on stderr.

    Any thread may call this.
    """
    if _REPORTS not in os.environ:
        sys.stderr.write(f"etude: error: {error}\n")
        sys.stderr.flush()
        return
    text = Report(error.exit_code, str(error)[:_MAX_MESSAGE_LENGTH])._asdict()
    os.write(int(os.environ[_REPORTS]), json.dumps(text).encode() + b"\n")


def end_with(parent: int) -> None:
    """Exit this process at once when its parent is no longer `parent`, as if both were killed together."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(LOST)

    threading.Thread(target=watch, daemon=True).start()
