"""Confidence intervals of scores and p-values of their differences, by resampling rows, for every metric alike.

sacrebleu's own functions hold all resamplings of all rows in memory (1000 of the 29,000 rows of a training split are
2 GB) and know no metrics but its own. Random numbers are drawn here in the same order, so that intervals and p-values
equal those of sacrebleu, which sums in single precision, to six digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from etude.metrics.score import Score, Statistics

SEED = 12345
"""sacrebleu's default."""

TRIALS = 10_000
"""Trials of approximate randomization, sacrebleu's default."""

TRIALS_AT_ONCE = 64
"""A multiple of 32: sacrebleu draws all bits at once, 32 from each random word."""

ROUNDING = 1e-6
"""Differences of scores that differ by less are equal: torchmetrics divides in single precision."""


def scored(statistics: Statistics, bootstrap: int = 0) -> Score:
    """Return the score of all rows.

    Args:
        statistics: Statistics of the rows.
        bootstrap: Number of resamplings for a 95 % confidence interval; below 2: no interval.
    """
    if bootstrap < 2:
        return Score(statistics.whole, statistics.signature, statistics=statistics)
    references, *rest = statistics.signature.split("|")
    signature = "|".join([references, f"bs:{bootstrap}", f"seed:{SEED}", *rest])
    return Score(statistics.whole, signature, *interval(statistics, bootstrap), statistics=statistics)


def all_scored(statistics: Mapping[str, Statistics], bootstrap: int = 0) -> dict[str, Score]:
    """Return the scores of several metrics, by name, as `scored` does."""
    return {name: scored(rows, bootstrap) for name, rows in statistics.items()}


def interval(statistics: Statistics, resamplings: int) -> tuple[float, float]:
    """Return the ends of the 95 % confidence interval by bootstrap resampling (Koehn 2004).

    As in sacrebleu, it is centred at the mean of the resamplings and as wide as the middle 95 % of them. It is clipped to
    the score's bounds.
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

    It is the share of trials whose difference is at least as large, after the outputs of each row were exchanged or not
    at random. Two systems with equal outputs have the p-value 1; in sacrebleu, which counts strictly larger differences
    only, they have the smallest one.

    Args:
        first: Statistics of one system, by a metric.
        second: Statistics of another system on the same rows, by the same metric.
        trials: Number of trials.
    """
    return pooled_p_value([(first, second)], trials)


def pooled_p_value(pairs: Sequence[tuple[Statistics, Statistics]], trials: int = TRIALS) -> float:
    """Return the p-value of the mean of several differences on the same rows, such as those of two recipes by seed.

    A row is exchanged in all pairs or in none: its outputs under several seeds are no independent rows.

    Args:
        pairs: Statistics of both systems in each pair, all on the same rows, by the same metric.
        trials: Number of trials.
    """
    generator = np.random.default_rng(SEED)
    count = len(pairs[0][0].rows)
    observed = abs(sum(first.whole - second.whole for first, second in pairs)) / len(pairs) - ROUNDING
    extreme = 0
    for start in range(0, trials, TRIALS_AT_ONCE):
        size = min(TRIALS_AT_ONCE, trials - start)
        kept = generator.integers(2, size=(size, count), dtype=bool)
        exchanged = (first.exchanged(second, kept) for first, second in pairs)
        for scores in zip(*exchanged, strict=True):
            extreme += bool(abs(sum(score - other for score, other in scores)) / len(pairs) >= observed)
    return (extreme + 1) / (trials + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (Holm 1979).

    Whoever rejects those up to 0.05 is wrong about any of them in one of twenty cases at most, whatever they have in common.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected
