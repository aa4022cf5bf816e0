"""Memory of processes, and what a system and its control groups leave free."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from etude import hardware
from etude.hardware import (
    free_of_groups,
    free_of_the_system,
    memory_limit,
    peak_resident_bytes,
    resident_bytes,
    total_memory,
)

GIB = 2**30


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(text)


def test_the_smallest_limit_of_nested_groups_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/job/step\n")
    root = tmp_path / "groups"
    write(root, memory_max="max\n", memory_current="1\n")
    write(
        root / "job",
        memory_max=f"{8 * GIB}\n",
        memory_current=f"{5 * GIB}\n",
        memory_stat=f"inactive_file {GIB}\nanon 3\n",
    )
    write(root / "job" / "step", memory_max=f"{6 * GIB}\n", memory_current=f"{4 * GIB}\n")
    assert list(free_of_groups(root, tmp_path / "own")) == [2 * GIB, 4 * GIB]


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("5:cpu,cpuacct:/x\n4:memory:/job\n")
    files = {"memory_limit_in_bytes": f"{3 * GIB}", "memory_usage_in_bytes": f"{GIB}"}
    write(tmp_path / "groups" / "memory" / "job", **files)
    assert list(free_of_groups(tmp_path / "groups", tmp_path / "own")) == [2 * GIB]


def test_a_system_that_says_nothing_has_no_limit(tmp_path: Path) -> None:
    assert not list(free_of_groups(tmp_path, tmp_path / "none"))
    assert not list(free_of_the_system(tmp_path / "none"))


def test_processes_share_what_is_free_and_leave_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_of_the_system", lambda: iter([20 * GIB]))
    monkeypatch.setattr(hardware, "free_of_groups", lambda: iter([10 * GIB, 12 * GIB]))
    assert memory_limit() == 9 * GIB
    assert memory_limit(3) == 3 * GIB


def test_this_machine_has_memory() -> None:
    assert 0 < memory_limit() < total_memory() < 2**50


def test_the_peak_is_that_of_this_process_and_stays() -> None:
    before, more = peak_resident_bytes(), 2**26
    block = np.ones((before - resident_bytes(os.getpid()) + more) // 8)
    during = peak_resident_bytes()
    del block
    inexact = 2**21  # Linux counts a few pages of each thread late
    assert before + more - inexact < during < before + more + 2**24
    assert during < peak_resident_bytes() + inexact
