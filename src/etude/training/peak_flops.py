"""The most that a machine gives: operations in a second, and the memory that a process has had."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import torch
from lightning.fabric.utilities.throughput import get_available_flops


@dataclass(frozen=True)
class PeakFlops:
    """What utilisation is measured against.

    Attributes:
        flops: Operations in a second.
        source: Where the number is from.
    """

    flops: float
    source: str


def peak(device: torch.device, precision: str) -> PeakFlops | None:
    """Return the peak of a device in the type that its products are computed in; None for a device that is not known.

    Of a GPU it is the manufacturer's, as Lightning's table has it; of a CPU, that of a matrix product, measured now.

    Args:
        device: Where products are computed.
        precision: As the trainer is told: `32-true`, `bf16-mixed`, ….
    """
    dtype = product_type(precision)
    name = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        published = get_available_flops(device, dtype)
        gpu = torch.cuda.get_device_name(device)
        return PeakFlops(float(published), f"published for {gpu}, {name}") if published else None
    if device.type != "cpu":
        return None
    measured = matrix_multiply_flops(512, dtype=dtype)
    return PeakFlops(
        measured, f"measured: {name} matrix products of this CPU, threads in each process: {torch.get_num_threads()}"
    )


def product_type(precision: str) -> torch.dtype:
    """Return the type of the factors of matrix products under one of Lightning's precisions."""
    known = {"64": torch.float64, "bf16": torch.bfloat16, "16": torch.float16}
    return known.get(precision.partition("-")[0], torch.float32)


def matrix_multiply_flops(size: int = 1024, repeats: int = 10, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a matrix multiply of model-like shape on the CPU: what utilisation is measured against.

    Args:
        size: Of the square factor; the other has twice as many rows.
        repeats: The fastest of so many counts.
        dtype: Of the factors.
    """
    # A generator of their own: the numbers of others stay what they are.
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, size, generator=generator).to(dtype) for rows in (2 * size, size))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 4 * size**3 / best


def peak_memory_mb() -> float:
    """Return the most memory that the process has had so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1024 * 1024 if sys.platform == "darwin" else 1024)
