"""Numbers and times as people write them."""

from __future__ import annotations

import math


def number(value: float, largest: float | None = None) -> str:
    """Return a number as people write it: four significant digits, and k, M, G for thousands and more.

    Args:
        value: The number.
        largest: Chooses the letter for all the numbers of an axis; by default it is the number itself.
    """
    if not math.isfinite(value):
        return str(float(value))
    for start, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value if largest is None else largest) >= start and value:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the unit, in seconds, and the name of it, in which a length of time has a handy size."""
    if seconds >= 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds >= 180 else (1.0, "seconds")


def count(value: float | None) -> str:
    """Return a count with its thousands apart, or a dash for none."""
    return "–" if value is None else f"{value:,.0f}"


def score(value: float) -> str:
    """Return a score as it is reported: two decimals, and four for those below one."""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}"


def duration(seconds: float | None) -> str:
    """Return a length of time by its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
