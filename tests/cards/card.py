"""Verification cards: what a command must bring, and what it brought when it was last tried.

A card is a YAML file under `docs/cards/`. Its upper part is written by a person: the command as a reader types it, where each
value is found, and the range in which it must lie. Its `stamp` is written by `make verify`: the values, the commit, the
machine, the day and the time that it took. Tables and sentences of the documentation are made of cards (`tests/cards/pages.py`).
"""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from tests.conftest import ROOT

CARDS = ROOT / "docs" / "cards"

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

Number = float | list[float]
"""A value, or the two ends of an interval."""


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a value is found, and what it must be.

    Attributes:
        file: File in each run's folder, such as `evaluations/test.json`, that `key` is looked up in.
        key: Keys from the outside in, separated by spaces; without a file, in the JSON on standard output, of `then` where
            there is one.
        line: Regular expression with one group, looked for in all that was written; the last match counts.
        digits: Decimal places that are shown.
        within: The smallest and the largest mean that is right; None: whatever comes is reported.
    """

    file: str | None = None
    key: str | None = None
    line: str | None = None
    digits: int = 3
    within: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if (self.key is None) == (self.line is None):
            raise ValueError("a result has either a key or a line")


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later commit at which the first losses of the training were those of the stamp's commit (`tests/cards/trace.py`).

    Attributes:
        commit: The later commit.
        date: Day, as 2026-11-29.
        steps: How many losses were compared.
        difference: Largest relative difference of one.
    """

    commit: str
    date: str
    steps: int
    difference: float


class Spent(msgspec.Struct, frozen=True):
    """What a training took, of what its `cost.json` has.

    Attributes:
        seconds: Its time, validations included.
        flops: Floating-point operations; None where they are not known.
        energy_joules: Energy, measured or estimated.
        energy_estimated: Whether a part of the energy is an estimate from the time of the processors.
    """

    seconds: float
    flops: int | None
    energy_joules: float
    energy_estimated: bool


class Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When, where and on what code a card was last tried, and what came out.

    Attributes:
        commit: Commit of the code.
        date: Day, as 2026-11-29.
        machine: Processor, instructions and cores.
        seconds: Time of the whole command; None where it was not kept.
        values: One value for each run of the command, by the name of the result.
        remark: What else was different, such as other work on the machine.
        held: Where its training was last seen to be the same; None where it was not looked at again.
        spent: What each training of the command took; empty where it trained nothing, or that was not kept.
    """

    commit: str
    date: str
    machine: str
    seconds: float | None = None
    values: dict[str, list[Number]] = {}
    remark: str = ""
    held: Held | None = None
    spent: list[Spent] = []

    @property
    def proven(self) -> str:
        """Commit up to which the values are known to stand."""
        return self.commit if self.held is None else self.held.commit


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A command, and what must come out of it.

    Attributes:
        command: As a reader types it; FOLDER stands for a corpus.
        then: What is typed afterwards, in the same place; RUN1, RUN2, … stand for the runs that the command made.
        says: What came out, with the names of results in braces.
        code: Files and folders that the result depends on.
        allowance: How many commits may touch the code before the card is too old.
        exit: Exit code.
        results: By the name that `says` uses.
        files: Files that the command leaves, in the run's folder or where it was typed.
        corpus: What FOLDER stands for: a folder of the development corpora.
        quick: Whether it takes less than about five minutes: `make verify` tries it.
        remark: What a reader should know besides; shown after `says`.
        stamp: When it was last tried; None before the first time.
    """

    command: str
    says: str
    code: list[str]
    allowance: int
    then: str = ""
    exit: int = 0
    results: dict[str, Result] = {}
    files: list[str] = []
    corpus: str | None = None
    quick: bool = False
    remark: str = ""
    stamp: Stamp | None = None

    def result(self) -> str:
        """Return what came out, with its numbers.

        Raises:
            ValueError: If the card has no stamp, or names a result that it does not have.
        """
        if self.stamp is None:
            raise ValueError(f"{self.command} was never tried")
        shown = {name: _shown(self.stamp.values.get(name, []), one.digits) for name, one in self.results.items()}
        return re.sub(r"\{(\w+)\}", lambda match: shown[match[1]], self.says)

    def text(self) -> str:
        """Return what came out, with its numbers, and all that is remarked on it.

        Raises:
            ValueError: If the card has no stamp, or names a result that it does not have.
        """
        text, stamp = self.result(), self.stamp
        assert stamp is not None
        return ". ".join(filter(None, (part.rstrip(".") for part in (text, self.remark, stamp.remark))))

    def duration(self) -> str:
        """Return the time of the whole command as people say it: `3 min 37 s`; empty where it was not kept."""
        return "" if self.stamp is None or self.stamp.seconds is None else _said(self.stamp.seconds)

    def cost(self) -> str:
        """Return what its training took, or the mean of several: `2 min 4 s, 3.1 TFLOP, 1.8 kJ`; empty where it was not kept."""
        if self.stamp is None or not self.stamp.spent:
            return ""
        spent = self.stamp.spent
        flops = [one.flops for one in spent if one.flops is not None]
        parts = [
            _said(statistics.fmean(one.seconds for one in spent)),
            _with_prefix(statistics.fmean(flops), "FLOP") if len(flops) == len(spent) else "FLOPs unknown",
            _with_prefix(statistics.fmean(one.energy_joules for one in spent), "J")
            + (" (estimated)" if any(one.energy_estimated for one in spent) else ""),
        ]
        return ", ".join(parts) + (f"; mean of {len(spent)}" if len(spent) > 1 else "")

    def faults(self, values: Mapping[str, Sequence[Number]]) -> list[str]:
        """Return what is wrong with values that came out, one line each."""
        found = []
        for name, result in self.results.items():
            if not values.get(name):
                found.append(f"{name}: nothing came out")
            elif result.within is not None and not result.within[0] <= _mean(values[name]) <= result.within[1]:
                low, high = result.within
                found.append(f"{name} is {_mean(values[name]):.{result.digits}f}, and should be from {low} to {high}")
        return found

    def commits_since(self) -> int | None:
        """Return how many commits touched the code since it was last proven, without merges, which bring what is counted.

        None where the history does not say.
        """
        assert self.stamp is not None
        words = ["git", "rev-list", "--count", "--no-merges", f"{self.stamp.proven}..HEAD", "--", *self.code]
        counted = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        return int(counted.stdout) if counted.returncode == 0 else None


def read(name: str) -> Card:
    """Read a card by its name, such as `translation/demo`.

    Raises:
        ValueError: If there is none, or it is not one.
    """
    path = CARDS / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no card {name} in docs/cards")
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Card)
    except msgspec.ValidationError as error:
        raise ValueError(f"docs/cards/{name}.yaml: {error}") from error


def names() -> list[str]:
    """Return the names of all cards."""
    return sorted(path.relative_to(CARDS).with_suffix("").as_posix() for path in CARDS.rglob("*.yaml"))


def write(name: str, card: Card) -> None:
    """Write a card."""
    path = CARDS / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    tree: Any = msgspec.to_builtins(card)
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def _mean(values: Sequence[Number]) -> float:
    return statistics.fmean(statistics.fmean(one) if isinstance(one, list) else one for one in values)


def _said(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (0 if hours else seconds, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def _with_prefix(value: float, unit: str) -> str:
    """Return a quantity with three significant digits and a prefix of the SI: `3.12 TFLOP`."""
    size, prefix = next((pair for pair in _PREFIXES if value >= pair[0]), (1.0, ""))
    return f"{value / size:.3g} {prefix}{unit}"


def _shown(values: Sequence[Number], digits: int) -> str:
    """Return a value; an interval; or mean ± deviation and each value."""
    if not values:
        raise ValueError("a result that is shown has no value; try its card again")
    numbers = [one for one in values if not isinstance(one, list)]
    if len(numbers) < len(values):
        return ", ".join(f"[{one[0]:,.{digits}f}, {one[1]:,.{digits}f}]" for one in values if isinstance(one, list))
    if len(numbers) == 1:
        return f"{numbers[0]:,.{digits}f}"
    each = ", ".join(f"{one:,.{digits}f}" for one in numbers)
    return f"{statistics.fmean(numbers):,.{digits}f} ± {statistics.stdev(numbers):,.{digits}f} ({each})"
