"""A folder served over HTTP by a thread, that can be told to fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Served:
    """What a server was asked for, and how it answers.

    Attributes:
        address: Where it is.
        asked: How often each file was asked for.
        fails: Whether it answers with an error.
        falls_silent: Requests after which it does; None: never by itself.
        mends: Requests after which it does so no more; None: never by itself.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: Counter[str] = Counter()
        self.fails = False
        self.falls_silent: int | None = None
        self.mends: int | None = None

    def refuses(self, name: str) -> bool:
        self.asked[name] += 1
        if self.falls_silent is not None and self.asked.total() > self.falls_silent:
            self.fails = True
        if self.fails and self.mends is not None:
            self.mends -= 1
            self.fails = self.mends >= 0
        return self.fails


class _Handler(SimpleHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        if self.served.refuses(self.path.lstrip("/")):
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    served = Handler.served = Served(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
