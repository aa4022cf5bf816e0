"""Jobs of members that train nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.sweeps.launchers import member_process
from etude.sweeps.launchers.base import Job


@pytest.fixture
def simple(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Members are those of `simple_member`."""
    monkeypatch.setattr(member_process, "MODULE", "simple_member")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    yield


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """A job that does what its values say."""

    def made(number: int = 0, *, devices: int = 1, threads: int = 1, prunes: bool = False, **values: Any) -> Job:
        folder = tmp_path / "outputs" / "one" / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        outputs = {"outputs": str(tmp_path / "outputs")}
        return Job(number, folder, {"paths": outputs, **values}, (), (), devices, threads, prunes)

    return made


@pytest.fixture
def until() -> Callable[..., None]:
    """Waits until something holds, and fails if it does not come."""

    def wait(holds: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.05)

    return wait


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Whether a process runs, not counting one that only waits to be reaped."""

    def running(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return running


os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112 (what other tests use is not a member's fault)
