"""Tests over seeds: agreement with simulations and with hand-made cases."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from etude.metrics.seeds import MOST_SEEDS, POWER, mean_interval, power, seed_test, seeds_needed


@pytest.mark.parametrize(
    ("effect", "seeds", "paired"), [(1.0, 5, True), (0.8, 8, False), (2.0, 3, True), (0.0, 6, False)]
)
def test_the_power_is_that_of_simulated_experiments(effect: float, seeds: int, paired: bool) -> None:
    random = np.random.default_rng(seeds)
    first, other = random.normal(size=(2, 20_000, seeds))
    other += effect * np.sqrt(2)
    test = stats.ttest_rel if paired else partial(stats.ttest_ind, equal_var=False)
    p = test(first, other, axis=1).pvalue
    own = [seed_test(*pair, paired=paired).p for pair in zip(first[:100].tolist(), other[:100].tolist(), strict=True)]
    assert own == pytest.approx(p[:100].tolist())
    # Welch's test has fewer degrees of freedom than were counted with: a little less power.
    assert np.mean(p < 0.05) == pytest.approx(power(effect, seeds, paired=paired), abs=0.015)


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = [low <= 0 <= high for low, high in (mean_interval(random.normal(size=4).tolist()) for _ in range(2000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


@given(st.floats(0.06, 20), st.booleans())
def test_as_many_seeds_as_needed_and_not_one_fewer(effect: float, paired: bool) -> None:
    needed = seeds_needed(effect, paired=paired)
    if needed is None:
        assert power(effect, MOST_SEEDS, paired=paired) < POWER
        return
    assert power(effect, needed, paired=paired) >= POWER
    assert needed == 2 or power(effect, needed - 1, paired=paired) < POWER


def test_a_pair_is_told_where_its_groups_alone_are_not() -> None:
    first, other = [30.0, 33.0, 36.0, 39.0], [30.5, 33.4, 36.6, 39.5]
    paired, apart = seed_test(first, other, paired=True), seed_test(first, other, paired=False)
    assert paired.difference == apart.difference == pytest.approx(0.5)
    assert paired.p < 0.01 < 0.5 < apart.p
    assert paired.low > 0 > apart.low and paired.needed is not None and apart.needed is not None
    assert paired.needed < 5 < 50 < apart.needed


def test_scores_without_a_deviation() -> None:
    assert seed_test([3.0, 3.0], [3.0, 3.0], paired=True).p == 1.0
    told = seed_test([3.0, 3.0], [4.0, 4.0], paired=False)
    assert (told.p, told.difference, told.low, told.high, told.needed) == (0.0, 1.0, 1.0, 1.0, None)
