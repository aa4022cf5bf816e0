"""Background work that training does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Runs tasks in a thread, one after the other; after a failure, the tasks behind it are not started.

    An error is raised once, in the thread that waits for the work or checks on it. A process that ends waits for the
    thread, unless it is killed. The work should leave the processor to the training: reading, hashing and writing do,
    since they release Python's lock; computing with torch would start a second set of threads beside those of the step.
    """

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="etude-writer")
        self._last: futures.Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Run a task after those that were started before it."""
        previous = self._last

        def follow() -> None:
            if previous is not None:
                previous.result()
            work()

        self._last = self._thread.submit(follow)

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
