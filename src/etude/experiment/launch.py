"""Processes that train together on one machine.

The command starts one process for each rank itself, with the variables of the rendezvous set for the child only. Each reads
the run's configuration from its folder, so a sweep, a failure or another number of devices cannot mix two runs. Under
torchrun, SLURM or another launcher nothing is started: its environment is respected.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from etude.errors import EtudeError
from etude.store.lock import RunLock

GRACE_SECONDS = 20.0
"""How long ranks may take to save and leave after they were asked to."""


def started_outside() -> bool:
    """Whether a launcher such as torchrun or SLURM started this process as one rank of several."""
    in_slurm_step = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return "LOCAL_RANK" in os.environ or in_slurm_step


def global_rank() -> int:
    """Return this process's rank as the launcher says it; 0 without one."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def launch(run: Path, devices: int, lock: RunLock) -> None:
    """Train a run in `devices` processes and wait for them.

    A signal to this process is passed on to all. When one rank fails, the others are ended. The ranks hold the lock with
    this process: should it be killed, nobody else enters the folder while they still write.

    Raises:
        EtudeError: With the exit code of the first rank that failed; what went wrong is on its stderr.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(devices),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices))),
    }
    command = [sys.executable, "-m", "etude.worker", str(run)]
    ranks = [
        subprocess.Popen(
            command,
            env={**environment, "LOCAL_RANK": str(rank), "RANK": str(rank)},
            pass_fds=[lock.fileno()],
        )
        for rank in range(devices)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        _wait(ranks)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all ranks have ended well; end the others when one has not."""
    while True:
        codes = [process.poll() for process in ranks]
        failed = [(rank, code) for rank, code in enumerate(codes) if code]
        if failed:
            rank, code = failed[0]
            _end(ranks)
            error = EtudeError(f"rank {rank} of {len(ranks)} ended with exit code {code}; the other ranks were ended")
            error.exit_code = code if code > 0 else 128 - code
            raise error
        if all(code == 0 for code in codes):
            return
        time.sleep(0.05)


def _end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Ask the ranks that are left to end, then make them."""
    for process in ranks:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in ranks:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
