"""Signals that ask a command to end: it ends in good order, with one line and the signal's exit code.

While a run trains, `etude.training.callbacks.stop_on_signal` answers them instead: the step is finished and saved first.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end that a system asks for, and SLURM's notice of preemption."""

PARENT = "ETUDE_PARENT"
"""Variable with the process id of the command that started this rank, and that says for all how they ended."""

STOP = threading.Event()
"""Set while a training has been asked to stop: whatever waits for a thing outside, waits no longer."""

INTERRUPTED = 130
TERMINATED = 143


class StoppedError(BaseException):
    """A signal ended the work.

    Like KeyboardInterrupt it is not an Exception: what goes on after a failure, such as a sweep, does not go on after this.

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


def in_thread(function: Callable[[], T]) -> T:
    """Return what a function returns, called in a thread, so that a signal does not have to wait for native code.

    Python handles signals in the main thread, between two of its instructions: native code called there would delay them
    until it returns.

    Args:
        function: Function that releases the interpreter's lock while it works. A signal abandons it; the process then
            ends without waiting for it.

    Raises:
        BaseException: What the function raises.
        StoppedError: If a signal comes first.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.1)
    except StoppedError as stop:
        # The interpreter cannot be finalized while a thread may still return to it.
        atexit.register(_leave, stop.exit_code)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _leave(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def leave_at_once() -> None:
    """End this process without saving or tidying: Ctrl-C was typed twice."""
    if PARENT not in os.environ:
        os.write(2, b"etude: left at once; a run continues where it was saved last\n")
    os._exit(INTERRUPTED)
