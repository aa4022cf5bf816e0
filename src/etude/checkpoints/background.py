"""Background work that training does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Runs tasks in the background, one after the other; after a failure, the tasks behind it are not started.

    An error is raised once, in the thread that waits for the work or checks on it. A process that ends waits for the work,
    unless it is killed. Each task has a thread of its own, which ends with it, so that a process that trains many runs keeps
    none. The work should leave the processor to the training: reading, hashing and writing do, since they release Python's
    lock; computing with torch would start a second set of threads beside those of the step.
    """

    def __init__(self) -> None:
        self._last: futures.Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Run a task after those that were started before it."""
        previous, done = self._last, futures.Future[None]()

        def follow() -> None:
            try:
                if previous is not None:
                    previous.result()
                work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._last = done
        threading.Thread(target=follow, name="etude-writer").start()

    def check(self) -> None:
        """Raise the error of the last task if it has failed already, without waiting."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all tasks are done, and raise the error of one that failed."""
        last = self._last
        if last is not None:
            futures.wait([last])  # if a signal interrupts this, the task can still be waited for
            self._last = None
            last.result()
