"""Devices that the same tests run on: a GPU, and in its place a CPU with the long proofs."""

from __future__ import annotations

import pytest
import torch

from tests.runs.conftest import overrides as overrides
from tests.runs.conftest import small_data as small_data

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine")
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds fewer than two GPUs on this machine")


@pytest.fixture(params=[pytest.param("gpu", marks=GPU), pytest.param("cpu", marks=pytest.mark.slow)])
def device(request: pytest.FixtureRequest) -> str:
    """What `trainer.accelerator` is set to."""
    return str(request.param)


@pytest.fixture(params=[pytest.param("gpu", marks=TWO_GPUS), pytest.param("cpu", marks=pytest.mark.slow)])
def two_devices(request: pytest.FixtureRequest) -> str:
    """What `trainer.accelerator` is set to, where there are two of them."""
    return str(request.param)
