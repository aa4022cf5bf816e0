"""Laws of masking: exactly k, the shares asked for, and nothing but (seed, epoch, example) decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.masking import Masking
from etude.errors import ConfigurationError

ORDINARY = np.arange(5, 97)


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.integers(0, 99), st.integers(0, 9), st.integers(0, 10**6))
def test_exactly_as_many_are_chosen_as_the_plan_counts(length: int, rate: float, seed: int, epoch: int, i: int) -> None:
    masking = Masking(rate=rate)
    chosen, hidden, swapped = masking.choose(length, ORDINARY, (seed, epoch, i))
    assert chosen.sum() == masking.counts(np.array([length]))[0] >= 1
    assert not (hidden & ~chosen).any()
    assert not ((swapped >= 0) & (~chosen | hidden)).any()
    assert np.isin(swapped[swapped >= 0], ORDINARY).all()


def test_the_shares_are_those_asked_for() -> None:
    masking = Masking(rate=0.15, masked=0.8, random=0.1)
    chosen, hidden, swapped = (
        np.concatenate(part)
        for part in zip(*(masking.choose(101, ORDINARY, (1, 0, i)) for i in range(2000)), strict=True)
    )
    count = chosen.sum()
    error = 4 * np.sqrt(0.8 * 0.2 / count)  # four standard deviations
    assert abs(hidden.sum() / count - 0.8) < error
    assert abs((swapped >= 0).sum() / count - 0.1) < error


def test_seed_epoch_and_example_each_change_the_choice() -> None:
    def choice(*key: int) -> bytes:
        return Masking().choose(211, ORDINARY, key)[0].tobytes()  # type: ignore[arg-type]

    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    assert len({choice(*key) for key in keys}) == 4
    assert choice(1, 0, 0) == choice(1, 0, 0)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": 1.0}, {"masked": 0.9, "random": 0.2}, {"random": -0.1}])
def test_impossible_shares_are_refused_with_their_values(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=str(next(iter(wrong.values())))):
        Masking(**wrong)
