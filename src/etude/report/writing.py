"""Numbers and durations formatted for people."""

from __future__ import annotations

import math


def number(value: float, largest: float | None = None) -> str:
    """Return a number with four significant digits, and k, M or G for large ones.

    Args:
        value: The number.
        largest: Number that decides the suffix, so that all numbers of an axis share it; None: the number itself.
    """
    if not math.isfinite(value):
        return str(float(value))
    for start, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value if largest is None else largest) >= start and value:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def count(value: float | None) -> str:
    """Return a count with thousands separators, or a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def score(value: float) -> str:
    """Return a score with two decimals, or four if it is below 1."""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}"


def mean_and_deviation(mean: float, deviation: float | None) -> str:
    """Return `37.10 ± 0.40`; without the deviation of one value, which has none."""
    return score(mean) + ("" if deviation is None else f" ± {score(deviation)}")


def shortened_change(change: str) -> str:
    """Return a change, `1.0 -> 1.1`, of which long sides, such as hashes, have only their beginning."""
    return " -> ".join(part if len(part) <= 24 else f"{part[:12]}…" for part in change.split(" -> "))


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, or a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
