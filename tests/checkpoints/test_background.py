from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from etude.checkpoints.background import BackgroundWriter
from etude.errors import StorageError


def fail() -> None:
    raise StorageError("the disk is full")


def test_nothing_waits_until_it_is_asked_to_and_the_order_is_kept() -> None:
    writer, go, done = BackgroundWriter(), threading.Event(), list[str]()
    writer.start(lambda: done.append(f"first {go.wait(30)}"))
    writer.start(lambda: done.append("second"))
    writer.check()
    assert done == []
    go.set()
    writer.wait()
    assert done == ["first True", "second"]
    writer.wait()


@pytest.mark.parametrize("ask", ["wait", "check"])
def test_a_failure_is_raised_once_and_what_follows_it_is_not_done(ask: str) -> None:
    writer, done = BackgroundWriter(), list[str]()
    writer.start(fail)
    writer.start(lambda: done.append("after it"))
    deadline = time.monotonic() + 30
    with pytest.raises(StorageError, match="the disk is full"):
        while time.monotonic() < deadline:
            getattr(writer, ask)()
    assert done == []
    writer.check()
    writer.start(lambda: done.append("later"))
    writer.wait()
    assert done == ["later"]


def test_what_interrupts_the_waiting_leaves_it_to_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, go, done = BackgroundWriter(), threading.Event(), list[bool]()
    writer.start(lambda: done.append(go.wait(30)))

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("concurrent.futures.wait", interrupted)
        writer.wait()
    go.set()
    writer.wait()
    assert done == [True]


def test_what_was_written_is_let_go() -> None:
    class Copy:
        """Stands for a snapshot."""

    writer, copy = BackgroundWriter(), Copy()
    gone = weakref.ref(copy)
    writer.start(lambda held=copy: None)  # type: ignore[misc]
    del copy
    writer.check()
    writer.start(lambda: None)
    while not writer._last.done():  # type: ignore[union-attr]
        time.sleep(0.01)
    gc.collect()
    assert gone() is None


def test_no_thread_is_left_when_the_work_is_done() -> None:
    writer = BackgroundWriter()
    for _ in range(3):
        writer.start(lambda: None)
    writer.wait()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("etude-writer")]
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_a_process_that_ends_waits(tmp_path: Path) -> None:
    script = f"""
import pathlib, time
from etude.checkpoints.background import BackgroundWriter
BackgroundWriter().start(lambda: (time.sleep(0.3), pathlib.Path({str(tmp_path / "written")!r}).touch()))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "written").exists()
