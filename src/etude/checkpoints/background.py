"""Work that the training need not wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Does pieces of work in a thread, one after the other; when one has failed, those behind it are not begun.

    What failed is raised once, in the thread that waits for the work or checks on it. A process that ends waits for the
    thread, unless it is killed. The work should leave the processor to the training: reading, hashing and writing do,
    since Python is free meanwhile; computing with torch would start a second set of threads beside those of the step.
    """

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="etude-writer")
        self._last: futures.Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Have a piece of work done, after those that were started before it."""
        before = self._last

        def follow() -> None:
            if before is not None:
                before.result()
            work()

        self._last = self._thread.submit(follow)

    def check(self) -> None:
        """Raise what failed, if that is known already; wait for nothing."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all that was started is done, and raise what failed."""
        last = self._last
        if last is not None:
            futures.wait([last])  # should a signal interrupt this, there is still something to wait for
            self._last = None
            last.result()
