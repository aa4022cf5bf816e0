"""`etude bench compare OLD NEW`: which ratios of two benches differ by more than their rounds do."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from etude.errors import DataError
from etude.metrics.seeds import ALPHA, seed_test

NOISE = 0.02
"""Change of a ratio that is never called one: equal rounds of a quiet machine differ by as much."""

SLOWER = 3
"""Exit code if something has become slower."""


class Contender(msgspec.Struct, frozen=True):
    """What one way of doing the work came to.

    Attributes:
        ratios: In each round, the first contender's rate divided by this one's.
    """

    ratios: list[float]


class Bench(msgspec.Struct, frozen=True):
    """A bench, of the file that holds several, a JSON object in each line.

    Attributes:
        title: What was compared.
        contenders: By name.
    """

    title: str
    contenders: dict[str, Contender]


@dataclass(frozen=True)
class RatioChange:
    """A ratio in two benches.

    Attributes:
        title: What was compared.
        contender: Who the first one was compared with.
        old: Geometric mean of its ratios in the old bench.
        new: In the new one.
        p: Probability of such a difference, or a larger one, by chance (Welch's t on logarithms); NaN of single rounds.
    """

    title: str
    contender: str
    old: float
    new: float
    p: float

    @property
    def verdict(self) -> str:
        """`slower`, `faster`, `alike`, or `too few rounds`."""
        if math.isnan(self.p):
            return "too few rounds"
        if self.p >= ALPHA or abs(self.new / self.old - 1) < NOISE:
            return "alike"
        return "slower" if self.new < self.old else "faster"


def compare_benches(old: Path, new: Path) -> list[RatioChange]:
    """Return how the ratios that two files share have changed.

    Args:
        old: File with what `make bench` wrote: a JSON object in each line.
        new: Another.

    Raises:
        DataError: If a file cannot be read, or they have no bench in common.
    """
    before, after = _read(old), _read(new)
    changes = [
        _change(title, name, contender.ratios, after[title][name].ratios)
        for title, contenders in before.items()
        for name, contender in contenders.items()
        if name in after.get(title, {})
    ]
    if not changes:
        raise DataError(f"{old} and {new} have no bench in common; make bench writes such files")
    return changes


def show(changes: Sequence[RatioChange]) -> None:
    """Write a table to stderr."""
    table = Table("bench", "against", "old", "new", "change", "p", "")
    for one in changes:
        change, p = f"{100 * (one.new / one.old - 1):+.1f} %", "" if math.isnan(one.p) else f"{one.p:.3f}"
        table.add_row(one.title, one.contender, f"{one.old:.2f}", f"{one.new:.2f}", change, p, one.verdict)
    Console(file=sys.stderr).print(table)


def plain(changes: Sequence[RatioChange]) -> Mapping[str, Any]:
    """Return the changes as JSON takes them."""
    return {
        "changes": [
            {
                "bench": one.title,
                "against": one.contender,
                "old": one.old,
                "new": one.new,
                "p": None if math.isnan(one.p) else one.p,
                "verdict": one.verdict,
            }
            for one in changes
        ],
        "slower": sum(one.verdict == "slower" for one in changes),
    }


def _read(file: Path) -> dict[str, dict[str, Contender]]:
    """Return the contenders of each bench of a file, but for the first, whose ratio to itself is 1."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        benches = [msgspec.json.decode(line, type=Bench) for line in lines]
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise DataError(f"{file}: {getattr(error, 'strerror', None) or error}; make bench writes such files") from error
    return {bench.title: dict(list(bench.contenders.items())[1:]) for bench in benches}


def _change(title: str, name: str, old: Sequence[float], new: Sequence[float]) -> RatioChange:
    before, after = ([math.log(ratio) for ratio in ratios] for ratios in (old, new))
    p = seed_test(before, after, paired=False).p if min(len(before), len(after)) > 1 else math.nan
    return RatioChange(title, name, _geometric_mean(before), _geometric_mean(after), p)


def _geometric_mean(logarithms: Sequence[float]) -> float:
    return math.exp(statistics.fmean(logarithms))
