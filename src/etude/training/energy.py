"""Energy counters of a machine: RAPL for processors, NVML for NVIDIA GPUs.

Both count the energy of a whole device: that of other programs on the same machine is included.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
"""Folder in which Linux has a folder for each RAPL zone, such as `intel-rapl:0` (under this name also on AMD processors)."""

_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
_COUNTED = re.compile(r"package-\d+(-die-\d+)?|dram")
_MICROJOULES, _MILLIJOULES = 1e-6, 1e-3

_log = logging.getLogger(__name__)


class Rapl:
    """Energy of the processor packages and of their memory.

    A package includes its cores and its graphics; zones of those, and of the whole board, would count twice. A counter wraps
    around at `max_energy_range_uj`, on a busy server after half an hour or more: it must be read more often than that.

    Args:
        zones: Folders of the zones that are summed.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = {zone: _number(zone / "max_energy_range_uj") for zone in zones}
        self._last = {zone: _number(zone / "energy_uj") for zone in zones}
        self._joules = 0.0

    @classmethod
    def find(cls, powercap: Path = POWERCAP) -> Rapl | None:
        """Return a reader of all packages of the machine; None if it has none, or one cannot be read."""
        try:
            named = [zone for zone in sorted(powercap.iterdir()) if _ZONE.fullmatch(zone.name)]
            zones = [zone for zone in named if _COUNTED.fullmatch((zone / "name").read_text().strip())]
            return cls(zones) if zones else None
        except (OSError, ValueError):  # since 2020 only root may read the counters on most systems
            return None

    def joules(self) -> float:
        """Return the joules used since construction. A counter that can no longer be read keeps its last value."""
        for zone, size in self._zones.items():
            with suppress(OSError, ValueError):
                now = _number(zone / "energy_uj")
                used = now - self._last[zone]
                self._joules += _MICROJOULES * (used if used >= 0 else used + size)
                self._last[zone] = now
        return self._joules


class Nvml:
    """Energy of a process's GPU, which NVML counts since the Volta generation.

    Args:
        library: The module `pynvml`, initialised.
        handle: NVML's handle of the GPU.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle
        self._start = library.nvmlDeviceGetTotalEnergyConsumption(handle)

    @classmethod
    def find(cls, device: torch.device) -> Nvml | None:
        """Return a reader for a device; None if it is not an NVIDIA GPU, has no counter, or `pynvml` is not installed."""
        if device.type != "cuda":
            return None
        try:
            library = importlib.import_module("pynvml")  # from the package nvidia-ml-py
            library.nvmlInit()
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            return cls(library, library.nvmlDeviceGetHandleByUUID(name))
        except Exception as error:  # an old GPU, no rights, no library: none of it may stop the training
            _log.info("the energy of the GPU is not measured: %s", " ".join(str(error).split()) or type(error).__name__)
            return None

    def joules(self) -> float:
        """Return the joules used since construction."""
        return _MILLIJOULES * float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._start)


def _number(file: Path) -> int:
    return int(file.read_text())
