"""Signals that ask a command to end: it ends in good order, with one line and the signal's exit code.

While a run trains, `etude.training.callbacks.stop_on_signal` answers them instead: the step is finished and saved first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end that a system asks for, and SLURM's notice of preemption."""

PARENT = "ETUDE_PARENT"
"""Variable with the process id of the command that started this rank, and that says for all how they ended."""

INTERRUPTED = 130
TERMINATED = 143


class StoppedError(BaseException):
    """A signal ended the work.

    Like KeyboardInterrupt it is no Exception: what goes on after a failure, such as a sweep, does not go on after this.

    Args:
        number: The signal.
        message: What was reached, and how to continue.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        # SLURM sends SIGUSR1 ahead of the SIGTERM that would follow.
        self.exit_code = INTERRUPTED if number == signal.SIGINT else TERMINATED


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Have a signal end what is done inside the block. Outside of the main thread, which alone gets signals, do nothing.

    Raises:
        StoppedError: Wherever the signal found the work. While that unwinds, a second Ctrl-C leaves at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            if number == signal.SIGINT:
                leave_at_once()
            return
        received = True
        name = signal.Signals(number).name
        raise StoppedError(number, f"stopped by {name}; the same command begins again, a run where it was saved last")

    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_at_once() -> None:
    """End this process without saving or tidying: Ctrl-C was typed twice."""
    if PARENT not in os.environ:
        os.write(2, b"etude: left at once; a run continues where it was saved last\n")
    os._exit(INTERRUPTED)
