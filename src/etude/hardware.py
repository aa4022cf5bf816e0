"""Memory that processes have, and that is free for more of them."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

MARGIN = 0.1
"""Part of the free memory that is left to the rest of a run: to what its report takes, and to what is not rehearsed."""

_SYSTEM = Path("/proc/meminfo")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit(processes: int = 1) -> int:
    """Return the bytes of memory that each of several processes may take: its share of what is free, less `MARGIN`.

    What is free, the system says and, for a container or a job, its control groups.
    """
    free = min([*free_of_the_system(), *free_of_groups()], default=sys.maxsize)
    return int(free * (1 - MARGIN)) // processes


def free_of_the_system(file: Path = _SYSTEM) -> Iterator[int]:
    """Yield Linux's estimate of the memory that can be had without swapping (proc_meminfo(5)); nothing elsewhere."""
    yield from _said(file, "MemAvailable:")


def total_memory() -> int:
    """Return the bytes of memory of the computer; 0 where Linux does not say."""
    return next(_said(_SYSTEM, "MemTotal:"), 0)


def _said(file: Path, name: str) -> Iterator[int]:
    for line in _lines(file):
        if line.startswith(name):
            yield int(line.split()[1]) * 1024


def free_of_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield what the limit of each control group of this process leaves: version 2, and version 1 with its controllers."""
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        names = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        group = (root / "memory" if controllers else root) / path.strip("/")
        for folder in (group, *group.parents):
            most, used = (next(iter(_lines(folder / name)), "max") for name in names)
            if most.isdecimal() and used.isdecimal():
                yield max(0, int(most) - int(used) + _file_cache(folder))
            if folder == root:
                break


def _file_cache(group: Path) -> int:
    """Return the bytes of a control group's file cache, which is given up when memory is asked for."""
    values = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
    return int(values.get("inactive_file", 0)) + int(values.get("active_file", 0))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def resident_bytes(process: int) -> int:
    """Return the resident memory of a process (proc_pid_statm(5)); 0 where it cannot be read."""
    words = " ".join(_lines(Path(f"/proc/{process}/statm"))).split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if words else 0


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process.

    Linux's own counter (proc_pid_status(5)) where it exists: that of getrusage(2) begins with the peak of the process that
    started this one.
    """
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:"))


def gibibytes(size: float) -> str:
    """Return a number of bytes as text, such as `1.25 GiB`."""
    return f"{size / 2**30:.2f} GiB"
