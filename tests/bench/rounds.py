"""Side by side: contenders that work by turns in one process, so that a drifting machine drifts for all of them.

Every round each contender works for some seconds; who begins changes from round to round. What counts is the ratio of the
first contender's rate to each other's within a round: the median of those is reported with the least and the most, beside the
median rates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

WARMUP = 3
"""Steps of every round that are not counted."""


@dataclass(frozen=True)
class Work:
    """What a contender did in a round, after its warm-up.

    Attributes:
        units: Real tokens, examples or sentences.
        seconds: The time that they took.
        loss: Mean of the training losses; NaN where there is none.
    """

    units: float
    seconds: float
    loss: float = float("nan")

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Attributes:
        work: Does a round, given its number.
        wanted: What the first contender's rate divided by this one's should at least be; None: nothing is asked.
    """

    work: Callable[[int], Work]
    wanted: float | None = None


class Stopwatch:
    """Counts steps, units and time of a round, without its warm-up.

    Args:
        seconds: After which a round is over.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps = 0
        self._started = 0.0
        self._work = Work(0.0, 0.0)
        self._losses: list[float] = []

    def over(self, units: float, loss: float = float("nan")) -> bool:
        """Count a step that has just ended; return whether the round is over."""
        now = time.perf_counter()
        self._steps += 1
        if self._steps <= WARMUP:
            self._started = now
            return False
        self._losses.append(loss)
        self._work = Work(self._work.units + units, now - self._started, statistics.fmean(self._losses))
        return self._work.seconds >= self._seconds

    @property
    def work(self) -> Work:
        """What was counted."""
        return self._work


def arguments(description: str | None, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the options that all benches have.

    Args:
        description: What is compared.
        seconds: Of a contender in a round, where nothing is said.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help="of each contender in each round")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; default: one for each core")
    parser.add_argument("--only", nargs="*", help="beginnings of the names of contenders; default: all")
    return parser


def compare(title: str, contenders: Mapping[str, Contender], options: argparse.Namespace) -> None:
    """Run the rounds; show a table on stderr and write one JSON object to stdout.

    Args:
        title: What is compared, and the unit.
        contenders: By name; the first one is what the others are compared with.
        options: Of `arguments`.
    """
    torch.set_num_threads(options.threads)
    first, *others = contenders
    names = [first, *(name for name in others if not options.only or name.startswith(tuple(options.only)))]
    done: dict[str, list[Work]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in _rotated(names, number):
            work = contenders[name].work(number)
            done[name].append(work)
            sys.stderr.write(f"round {number + 1}: {name}: {work.rate:,.1f} (loss {work.loss:.3f})\n")
    found = {name: _summary(done[first], done[name], contenders[name].wanted) for name in names}
    _show(title, found)
    print(json.dumps({"title": title, "threads": options.threads, "rounds": options.rounds, "contenders": found}))


def _rotated(names: list[str], by: int) -> Iterable[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def _summary(first: list[Work], mine: list[Work], wanted: float | None) -> dict[str, Any]:
    ratios = [a.rate / b.rate for a, b in zip(first, mine, strict=True)]
    return {
        "rate": statistics.median(work.rate for work in mine),
        "first_over_this": statistics.median(ratios),
        "ratios": ratios,
        "least": min(ratios),
        "most": max(ratios),
        "wanted": wanted,
        "loss_of_last_round": None if mine[-1].loss != mine[-1].loss else mine[-1].loss,
    }


def _show(title: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("contender", "rate", "first / this", "least", "most", "wanted", "loss, last round", title=title)
    for name, row in found.items():
        cells = [row[key] for key in ("rate", "first_over_this", "least", "most", "wanted", "loss_of_last_round")]
        formats = ("{:,.1f}", "{:.2f}", "{:.2f}", "{:.2f}", "≥ {:.2f}", "{:.3f}")
        table.add_row(
            name, *("" if cell is None else form.format(cell) for cell, form in zip(cells, formats, strict=True))
        )
    Console(file=sys.stderr).print(table)
