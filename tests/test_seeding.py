from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.seeding import mix, seed_all, seed_micro_batch

PARTS = st.lists(st.one_of(st.integers(), st.text("ab1:", max_size=4)), min_size=1, max_size=4)


@given(PARTS)
def test_a_seed_has_63_bits(parts: list[int | str]) -> None:
    assert 0 <= mix(*parts) < 2**63


@given(PARTS, PARTS)
def test_other_parts_make_another_seed(some: list[int | str], others: list[int | str]) -> None:
    assert (mix(*some) == mix(*others)) == (some == others)


def test_every_bit_of_a_seed_varies() -> None:
    seeds = [mix(1, step) for step in range(200)]
    for bit in range(63):
        assert 60 < sum(seed >> bit & 1 for seed in seeds) < 140


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(()).item()


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**63 - 1])
def test_all_generators_start_from_the_seed(seed: int) -> None:
    seed_all(seed)
    first = draws()
    assert all(one != other for one, other in zip(first, draws(), strict=True))
    seed_all(seed)
    assert draws() == first
    seed_all(seed - 1 if seed else 7)
    assert all(one != other for one, other in zip(first, draws(), strict=True))


def test_the_draws_of_a_micro_batch_depend_on_nothing_before() -> None:
    seed_micro_batch(1, 2, 3, 0)
    first = torch.rand(7)
    torch.rand(5)
    seed_micro_batch(1, 2, 3, 0)
    assert torch.equal(torch.rand(7), first)
    for other in ((2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1), (1, 3, 2, 0)):
        seed_micro_batch(*other)
        assert not torch.equal(torch.rand(7), first)
