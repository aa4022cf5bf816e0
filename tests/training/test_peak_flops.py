"""Peak FLOPs: the type of matrix products, and their speed on this machine; peak memory."""

from __future__ import annotations

import pytest
import torch

from etude.training.peak_flops import matrix_multiply_dtype, matrix_multiply_flops, peak_flops, peak_memory_mb


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("16-mixed", torch.float16),
        ("64-true", torch.float64),
    ],
)
def test_products_have_the_type_of_the_precision(precision: str, dtype: torch.dtype) -> None:
    assert matrix_multiply_dtype(precision) is dtype


def test_the_peak_of_a_cpu_is_measured_and_that_of_an_unknown_device_is_none() -> None:
    peak = peak_flops(torch.device("cpu"), "32-true")
    assert peak is not None
    assert peak.flops > 1e8
    assert peak.source.startswith("measured: float32 matrix products of this CPU")
    assert peak_flops(torch.device("meta"), "32-true") is None


def test_a_measurement_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert matrix_multiply_flops(64, repeats=2) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_peak_memory_never_falls() -> None:
    before = peak_memory_mb()
    held = torch.ones(1 << 22, dtype=torch.uint8)
    assert peak_memory_mb() >= before > 10
    assert held.sum() == 1 << 22
