"""The server that forks the processes of tests, so that each costs a fraction of a second and not an import of seconds.

A process has one such server, whatever context asks for it, and what it imports is what was asked for last: so there is one
list, here.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])
