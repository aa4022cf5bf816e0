"""Memory that runs out ends a command in one line with its exit code; other errors stay what they are."""

from __future__ import annotations

import pytest
import torch

from etude.errors import MemoryExhaustedError, memory_errors

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.1 GiB is free."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError(CUDA), r"out of memory \(2.50 GiB more were asked for\); .*trainer.micro_batches=2"),
        (MemoryError(), r"^out of memory; "),
    ],
)
def test_it_is_named(error: Exception, said: str) -> None:
    with pytest.raises(MemoryExhaustedError, match=said), memory_errors():
        raise error


def test_an_allocation_that_torch_cannot_make() -> None:
    with pytest.raises(MemoryExhaustedError, match=r"\(4000000000000000 bytes more"), memory_errors():
        torch.empty(10**15)


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors():
        raise RuntimeError("shapes do not fit")
