"""Energy from the counters that a machine has: RAPL for processors, NVML for NVIDIA's GPUs.

Both count what a device as a whole has used, whoever used it: other programs on the same machine are in it.
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
"""Where Linux has a folder for each zone of RAPL, such as `intel-rapl:0` (AMD's processors have the same names)."""

_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
_COUNTED = re.compile(r"package-\d+(-die-\d+)?|dram")
_MICROJOULES, _MILLIJOULES = 1e-6, 1e-3

_log = logging.getLogger(__name__)


class Rapl:
    """The energy of the processors' packages and of the memory beside them.

    A package holds its cores and its graphics; zones of those, and that of the whole board, would count twice. A counter
    begins anew at the value that `max_energy_range_uj` says, on a busy server after half an hour or more: to be exact it
    must be read more often than that.

    Args:
        zones: Folders of the zones that are summed.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = {zone: _number(zone / "max_energy_range_uj") for zone in zones}
        self._last = {zone: _number(zone / "energy_uj") for zone in zones}
        self._joules = 0.0

    @classmethod
    def find(cls, powercap: Path = POWERCAP) -> Rapl | None:
        """Return a reader of all packages of a machine; None where there are none, or not all may be read."""
        try:
            named = [zone for zone in sorted(powercap.iterdir()) if _ZONE.fullmatch(zone.name)]
            zones = [zone for zone in named if _COUNTED.fullmatch((zone / "name").read_text().strip())]
            return cls(zones) if zones else None
        except (OSError, ValueError):  # since 2020 the counters are the administrator's alone on most systems
            return None

    def joules(self) -> float:
        """Return the joules used since this reader was made. A counter that can no longer be read stands still."""
        for zone, size in self._zones.items():
            with suppress(OSError, ValueError):
                now = _number(zone / "energy_uj")
                used = now - self._last[zone]
                self._joules += _MICROJOULES * (used if used >= 0 else used + size)
                self._last[zone] = now
        return self._joules


class Nvml:
    """The energy of a process's GPU, as NVML counts it since Volta.

    Args:
        library: The module `pynvml`, initialised.
        handle: NVML's of the GPU.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle
        self._start = library.nvmlDeviceGetTotalEnergyConsumption(handle)

    @classmethod
    def find(cls, device: torch.device) -> Nvml | None:
        """Return a reader for a device; None if it is no GPU of NVIDIA's, `pynvml` is not installed, or there is no counter."""
        if device.type != "cuda":
            return None
        try:
            library = importlib.import_module("pynvml")  # of the package nvidia-ml-py
            library.nvmlInit()
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            return cls(library, library.nvmlDeviceGetHandleByUUID(name))
        except Exception as error:  # whatever it is: an old GPU, no rights, no library; it is the training that counts
            _log.info("the energy of the GPU is not measured: %s", " ".join(str(error).split()) or type(error).__name__)
            return None

    def joules(self) -> float:
        """Return the joules used since this reader was made."""
        return _MILLIJOULES * float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._start)


def _number(file: Path) -> int:
    return int(file.read_text())
