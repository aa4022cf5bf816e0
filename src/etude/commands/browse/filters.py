"""Conditions on runs, as they are typed: `task=translation`, `val/bleu>30`, `optimizer.lr<1e-3`, `seconds>10min`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etude.duration import Duration
from etude.errors import ConfigurationError

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
"""Comparisons by what is typed; those of two characters come first."""

IN_SECONDS = ("seconds", "age")
"""Keys that are compared with durations such as `10min`."""

_CONDITION = re.compile(r"([A-Za-z_][\w./-]*?)\s*(!=|>=|<=|=|>|<)\s*(.*)", re.DOTALL)
_PLAIN = {"true": True, "false": False, "null": None}
_DAYS = re.compile(r"(\d+(?:\.\d+)?)\s*d")
_DAY = 86400.0


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        key: What is compared.
        sign: A key of `OPERATORS`.
        text: What it is compared with, as it was typed.
    """

    key: str
    sign: str
    text: str

    @classmethod
    def parse(cls, word: str) -> Condition:
        """Read a condition.

        Raises:
            ConfigurationError: If it is none, or compares the order of something that has none.
        """
        match = _CONDITION.fullmatch(word.strip())
        if match is None:
            raise ConfigurationError(
                f"{word!r} is no filter; write a key, one of = != < <= > >= and a value, in quotes: 'val/bleu>30' "
                "(command line)"
            )
        return cls(match[1], match[2], match[3].strip().strip("'\""))

    def holds(self, value: Any) -> bool:
        """Return whether a run's value meets the condition.

        An absent value is `null`, and is neither less nor more than anything. A list equals what is in it.
        """
        if isinstance(value, list | tuple) and self.sign in ("=", "!="):
            found = any(_equal(item, self.text) for item in value) or str(list(value)) == self.text
            return found == (self.sign == "=")
        if self.sign in ("=", "!="):
            return _equal(value, self.text, self.key) == (self.sign == "=")
        pair = _pair(value, self.text, self.key)
        return pair is not None and OPERATORS[self.sign](*pair)


def partly_typed(word: str) -> tuple[str, str, str]:
    """Return key, sign and value of a condition that is not finished; sign and value may be empty."""
    match = _CONDITION.fullmatch(word)
    return (match[1], match[2], match[3]) if match else (word, "", "")


def holding(conditions: Sequence[Condition], field: Callable[[str], Any]) -> bool:
    """Return whether all conditions hold of a row, whose values `field` returns."""
    return all(condition.holds(field(condition.key)) for condition in conditions)


def _equal(value: Any, text: str, key: str = "") -> bool:
    if value is None or isinstance(value, bool) or text in _PLAIN:
        return text in _PLAIN and value is _PLAIN[text]
    pair = _pair(value, text, key)
    return str(value) == text if pair is None else bool(pair[0] == pair[1])


def _pair(value: Any, text: str, key: str) -> tuple[float, float] | None:
    """Return a value and a text as numbers that can be compared; None if they cannot."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int | float):
        number = _number(text)
        number = _seconds(text) if number is None and key in IN_SECONDS else number
        return None if number is None else (value, number)
    numbers = _number(value), _number(text)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0], numbers[1]
    lengths = _duration(value), _duration(text)
    if lengths[0] is None or lengths[1] is None or lengths[0].unit != lengths[1].unit:
        return None
    return lengths[0].amount, lengths[1].amount


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _duration(text: str) -> Duration | None:
    try:
        return Duration.parse(text)
    except ConfigurationError:
        return None


def _seconds(text: str) -> float | None:
    days = _DAYS.fullmatch(text)
    length = _duration(text)
    if days is not None:
        return float(days[1]) * _DAY
    return length.amount if length is not None and length.unit == "second" else None
