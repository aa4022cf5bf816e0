"""Confidence intervals of scores and p-values of their differences, by resampling rows, for every metric alike.

sacrebleu's own functions hold all resamplings of all rows in memory (1000 of the 29,000 rows of a training split are
2 GB) and know no metrics but its own. Random numbers are drawn here in the same order, so that intervals and p-values
equal those of sacrebleu, which sums in single precision, to six digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from etude.metrics.score import Score, Statistics

SEED = 12345
"""sacrebleu's default."""

TRIALS = 10_000
"""Trials of approximate randomization, sacrebleu's default."""

AT_ONCE = 64
"""Trials or samples. A multiple of 32: sacrebleu draws all bits at once, 32 from each random word."""

ROUNDING = 1e-6
"""Differences of scores that differ by less are equal: torchmetrics divides in single precision."""


def scored(statistics: Statistics, bootstrap: int = 0) -> Score:
    """Return the score of all rows.

    Args:
        statistics: Statistics of the rows.
        bootstrap: Number of resamplings for a 95 % confidence interval; below 2: no interval.
    """
    return all_scored({"": statistics}, bootstrap)[""]


def all_scored(statistics: Mapping[str, Statistics], bootstrap: int = 0) -> dict[str, Score]:
    """Return the scores of several metrics, by name, as `scored` does; those of equally many rows share their samples."""
    if bootstrap < 2:
        return {name: Score(one.whole, one.signature, statistics=one) for name, one in statistics.items()}
    scores = {}
    for (name, one), ends in zip(statistics.items(), intervals([*statistics.values()], bootstrap), strict=True):
        references, *rest = one.signature.split("|")
        signature = "|".join([references, f"bs:{bootstrap}", f"seed:{SEED}", *rest])
        scores[name] = Score(one.whole, signature, *ends, statistics=one)
    return scores


def intervals(statistics: Sequence[Statistics], resamplings: int) -> list[tuple[float, float]]:
    """Return the ends of the 95 % confidence interval of each score by bootstrap resampling (Koehn 2004).

    As in sacrebleu, it is centred at the mean of the resamplings and as wide as the middle 95 % of them. It is clipped to
    the score's bounds.
    """
    scores = np.empty((len(statistics), resamplings))
    for count in {len(one.rows) for one in statistics}:
        start = 0
        for times in _samples(count, resamplings):
            for place, one in enumerate(statistics):
                if len(one.rows) == count:
                    scores[place, start : start + len(times)] = one.resampled(times)
            start += len(times)
    scores.sort(axis=1)
    cut = resamplings // 40
    middle, half = scores.mean(axis=1), (scores[:, resamplings - 1 - cut] - scores[:, cut]) / 2
    least, most = np.array([one.bounds for one in statistics]).reshape(-1, 2).T
    low, high = np.clip(middle - half, least, most), np.clip(middle + half, least, most)
    return [*zip(low.tolist(), high.tolist(), strict=True)]


def _samples(count: int, resamplings: int) -> Iterator[Int[np.ndarray, "T N"]]:
    """Yield how often each of so many rows is in each sample, for some samples at a time."""
    generator = np.random.default_rng(SEED)
    for start in range(0, resamplings, AT_ONCE):
        size = min(AT_ONCE, resamplings - start)
        drawn = generator.choice(count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)


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
    for start in range(0, trials, AT_ONCE):
        size = min(AT_ONCE, trials - start)
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
