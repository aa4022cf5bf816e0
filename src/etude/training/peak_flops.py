"""Peak FLOP/s of a device, and peak memory of a process."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from functools import cache

import torch
from lightning.fabric.utilities.throughput import get_available_flops


@dataclass(frozen=True)
class PeakFlops:
    """Peak that utilisation is relative to.

    Attributes:
        flops: Floating-point operations per second.
        source: Origin of the number.
    """

    flops: float
    source: str


def peak_flops(device: torch.device, precision: str) -> PeakFlops | None:
    """Return the peak of a device for the type of its matrix products; None for an unknown device.

    For a GPU it is the manufacturer's value in Lightning's table; for a CPU, that of a matrix product, which is measured once
    in a process.

    Args:
        device: Device that computes the products.
        precision: Lightning's precision: `32-true`, `bf16-mixed`, ….
    """
    dtype = matrix_multiply_dtype(precision)
    name = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        published = get_available_flops(device, dtype)
        gpu = torch.cuda.get_device_name(device)
        return PeakFlops(float(published), f"published for {gpu}, {name}") if published else None
    if device.type != "cpu":
        return None
    threads = torch.get_num_threads()
    source = f"measured: {name} matrix products of this CPU, threads in each process: {threads}"
    return PeakFlops(_of_this_cpu(dtype, threads), source)


@cache
def _of_this_cpu(dtype: torch.dtype, threads: int) -> float:
    return matrix_multiply_flops(512, dtype=dtype)


def matrix_multiply_dtype(precision: str) -> torch.dtype:
    """Return the type of the factors of matrix products under one of Lightning's precisions."""
    dtypes = {"64": torch.float64, "bf16": torch.bfloat16, "16": torch.float16}
    return dtypes.get(precision.partition("-")[0], torch.float32)


def matrix_multiply_flops(size: int = 1024, repeats: int = 10, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a matrix multiply of model-like shape on the CPU.

    Args:
        size: Rows and columns of the square factor; the other factor has twice as many rows.
        repeats: Number of measurements; the fastest counts.
        dtype: Type of the factors.
    """
    # A separate generator, so that no other random number changes.
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, size, generator=generator).to(dtype) for rows in (2 * size, size))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 4 * size**3 / best


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process, in MiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1024 * 1024 if sys.platform == "darwin" else 1024)
