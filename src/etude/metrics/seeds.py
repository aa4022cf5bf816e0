"""What scores over several seeds say: of the mean, of a difference, and of how many seeds would tell it.

A test on the rows of two runs says whether these two differ on more texts of the kind. Whether two methods differ, the
deviation over seeds says (Reimers and Gurevych 2017, https://arxiv.org/abs/1707.09861). All is by Student's t, for which
scores over seeds are near enough to normal; with two or three seeds that is an assumption, not a finding.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

ALPHA = 0.05
"""Probability of calling a difference of nothing a difference."""

POWER = 0.8
"""Probability of telling a difference that is there, for which seeds are counted."""

MOST_SEEDS = 1000
"""Number of seeds from which on a count says nothing more."""


@dataclass(frozen=True)
class SeedTest:
    """The difference of a score between two groups of runs.

    Attributes:
        difference: Mean of the other group minus that of the first.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        p: Two-sided p-value.
        paired: Whether runs of equal seeds were paired.
        needed: Seeds of each group that tell a difference of this size in `POWER` of all cases; None: more than `MOST_SEEDS`.
    """

    difference: float
    low: float
    high: float
    p: float
    paired: bool
    needed: int | None


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean over seeds, of at least two values."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    reach = float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return mean - reach, mean + reach


def seed_test(first: Sequence[float], other: Sequence[float], *, paired: bool) -> SeedTest:
    """Test the difference of two groups: paired by seed (t), or not (Welch's t, whose groups may vary differently).

    Args:
        first: Scores of the first group, at least two.
        other: Those of the other; in the order of the first group's seeds, if paired.
        paired: Whether the i-th scores of both are of one seed.
    """
    difference = statistics.fmean(other) - statistics.fmean(first)
    if paired:
        deviation = statistics.stdev(b - a for a, b in zip(first, other, strict=True))
    else:
        deviation = math.sqrt(statistics.variance(first) + statistics.variance(other))
    if deviation == 0:  # scores without any deviation: equal, or different without a doubt
        return SeedTest(difference, difference, difference, 1.0 if difference == 0 else 0.0, paired, None)
    result = stats.ttest_rel(other, first) if paired else stats.ttest_ind(other, first, equal_var=False)
    interval = result.confidence_interval(1 - ALPHA)
    needed = seeds_needed(abs(difference) / deviation, paired=paired)
    return SeedTest(difference, float(interval.low), float(interval.high), float(result.pvalue), paired, needed)


def seeds_needed(effect: float, *, paired: bool) -> int | None:
    """Return how many seeds each group needs for a difference to be told in `POWER` of all cases at `ALPHA`.

    Args:
        effect: The difference in standard deviations of the difference of two single runs.
        paired: Whether runs are paired by seed.

    Returns:
        The least number, at least 2; None if it is more than `MOST_SEEDS`.
    """
    if power(effect, MOST_SEEDS, paired=paired) < POWER:
        return None
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, paired=paired) >= POWER else (middle + 1, high)
    return low


def power(effect: float, seeds: int, *, paired: bool) -> float:
    """Return the probability that a t-test over so many seeds of each group tells a difference, by the noncentral F of t².

    Args:
        effect: As in `seeds_needed`.
        seeds: Seeds of each group, at least 2.
        paired: Whether runs are paired by seed.
    """
    if effect == 0:
        return ALPHA
    freedom = seeds - 1 if paired else 2 * (seeds - 1)
    critical = float(stats.f.isf(ALPHA, 1, freedom))
    # The square of t is F, whose noncentral form scipy computes without losing precision.
    return float(stats.ncf.sf(critical, 1, freedom, seeds * effect**2))
