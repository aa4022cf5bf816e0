"""How sure a score is, and a difference of two: by resampling rows, as sacrebleu does and for every metric alike.

sacrebleu's own functions hold all resamplings of all rows in memory (1000 of the 29,000 rows of a training split are
2 GB) and know no metrics but its own. Numbers are drawn here in the same order, so that intervals and p-values are equal
to sacrebleu's, which sums in single precision, to six digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from etude.metrics.score import Score, Statistics

SEED = 12345
"""sacrebleu's, where SACREBLEU_SEED is not set."""

TRIALS = 10_000
"""Exchanges of approximate randomization, sacrebleu's default."""

TRIALS_AT_ONCE = 64
"""A multiple of 32: sacrebleu draws all bits at once, 32 from each random word."""

ROUNDING = 1e-6
"""Differences of scores up to here are equal: torchmetrics divides in single precision."""


def scored(statistics: Statistics, bootstrap: int = 0) -> Score:
    """Return the score of all rows.

    Args:
        statistics: Of the rows.
        bootstrap: Resamplings for a 95 % confidence interval; below 2: no interval.
    """
    if bootstrap < 2:
        return Score(statistics.whole, statistics.signature, statistics=statistics)
    references, *rest = statistics.signature.split("|")
    signature = "|".join([references, f"bs:{bootstrap}", f"seed:{SEED}", *rest])
    return Score(statistics.whole, signature, *interval(statistics, bootstrap), statistics=statistics)


def all_scored(statistics: Mapping[str, Statistics], bootstrap: int = 0) -> dict[str, Score]:
    """Return what `scored` returns, by the same names."""
    with _counted_fast():
        return {name: scored(one, bootstrap) for name, one in statistics.items()}


@contextmanager
def _counted_fast() -> Iterator[None]:
    """Leave torch's deterministic mode for a while: scores are computed on the CPU, where torch counts exactly anyway.

    In that mode torchmetrics holds each row against each pair of classes: a gigabyte, and a second for each resampling, for
    5,000 rows of 150 classes.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def interval(statistics: Statistics, resamplings: int) -> tuple[float, float]:
    """Return the ends of the 95 % confidence interval by bootstrap resampling (Koehn 2004).

    As in sacrebleu it is centred at the mean of the resamplings, and half as wide as the middle 95 % of them.
    It ends where the score's bounds do.
    """
    generator = np.random.default_rng(SEED)
    count = len(statistics.rows)
    scores = np.empty(resamplings)
    for number in range(resamplings):
        times = np.bincount(generator.choice(count, count), minlength=count)
        scores[number] = statistics.resampled(times)
    scores.sort()
    cut = resamplings // 40
    middle, half = scores.mean(), (scores[resamplings - 1 - cut] - scores[cut]) / 2
    low, high = np.clip((middle - half, middle + half), *statistics.bounds)
    return float(low), float(high)


def paired_p_value(first: Statistics, second: Statistics, trials: int = TRIALS) -> float:
    """Return the p-value of a difference by approximate randomization (Noreen 1989; Riezler and Maxwell 2005).

    It is the share of trials in which a difference is at least as large after the outputs for each row were exchanged
    or not by the toss of a coin. Two systems of equal outputs have the p-value 1 (in sacrebleu, which counts larger
    differences only, the smallest).

    Args:
        first: Statistics of one system, by a metric.
        second: Those of another one for the same rows, by the same metric.
        trials: How often outputs are exchanged.
    """
    generator = np.random.default_rng(SEED)
    count = len(first.rows)
    observed = abs(first.whole - second.whole) - ROUNDING
    extreme = 0
    for start in range(0, trials, TRIALS_AT_ONCE):
        size = min(TRIALS_AT_ONCE, trials - start)
        kept = generator.integers(2, size=(size, count), dtype=bool)
        extreme += sum(abs(one - other) >= observed for one, other in first.exchanged(second, kept))
    return (extreme + 1) / (trials + 1)
