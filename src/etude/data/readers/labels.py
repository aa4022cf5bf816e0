"""Labels of rows: one class, several classes or a number, and the array that is stored of them for a split.

Axes: N examples, C classes.
"""

from __future__ import annotations

import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from etude.data.readers.sources import Row
from etude.errors import DataError

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that a batch can hold."""


class Labels(ABC):
    """Reader of the labels of a corpus, split by split, the training split first.

    Args:
        field: Field of the label.
        classes: Names of the classes, if labels are classes; None: those of the training split.
    """

    def __init__(self, field: str, classes: Sequence[str] | None = None) -> None:
        self.field = field

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their ids; empty where there are none."""
        return ()

    @abstractmethod
    def value(self, row: Row) -> Any:
        """Return the label of a row.

        Raises:
            DataError: If it is not a label.
        """

    @abstractmethod
    def close(self, values: Sequence[Any]) -> Shaped[np.ndarray, "N ..."]:
        """Return what is stored of a split, given its labels. After the first split, no class is added any more."""


class _Classes(Labels):
    """Ids of class names: those given, or those of the training split, in order of appearance until it is closed."""

    def __init__(self, field: str, classes: Sequence[str] | None = None) -> None:
        super().__init__(field)
        self._open = classes is None
        self._ids = {name: number for number, name in enumerate(classes or ())}

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in the order of their ids."""
        return tuple(self._ids)

    def _id(self, name: str, origin: str) -> int:
        if name not in self._ids:
            if not self._open:
                names = ", ".join(list(self._ids)[:8]) + (", …" if len(self._ids) > 8 else "")
                raise DataError(f"{origin} has the label {name!r}, which training has not; it has: {names}")
            self._ids[name] = len(self._ids)
        return self._ids[name]

    def _sorted(self) -> Int[np.ndarray, " C"]:
        """Sort the names of the training split, whole numbers by value, add no more, and return each old id's new one."""
        if not self._open:
            return np.arange(len(self._ids))
        names = sorted(self._ids, key=_number_key if all(name.isdecimal() for name in self._ids) else None)
        renumbered = np.zeros(len(names), np.int64)
        for number, name in enumerate(names):
            renumbered[self._ids[name]] = number
        self._ids, self._open = {name: number for number, name in enumerate(names)}, False
        return renumbered


def _number_key(name: str) -> tuple[int, str, str]:
    """Return what orders whole numbers by value, however many digits they have."""
    digits = "".join(str(unicodedata.decimal(digit)) for digit in name).lstrip("0")
    return len(digits), digits, name


class ClassLabels(_Classes):
    """One class: its name."""

    def value(self, row: Row) -> int:
        """Return the id of a row's class, before it is sorted.

        Raises:
            DataError: If the class is unknown.
        """
        return self._id(row.fields[self.field], row.origin)

    def close(self, values: Sequence[int]) -> Int[np.ndarray, " N"]:
        """Return the ids."""
        return self._sorted()[np.array(values, np.int64)]


class SeveralLabels(_Classes):
    """Any number of classes: their names as a JSON list, as `etude.data.readers.tables.read_rows` writes it."""

    def value(self, row: Row) -> tuple[int, ...]:
        """Return the ids of a row's classes, before they are sorted.

        Raises:
            DataError: If it is not a list of names, or a class is unknown.
        """
        text = row.fields[self.field]
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f'{row.origin} has the label {_shown(text)}, which is not a list of names; write ["a", "b"]'
            )
        return tuple(self._id(name, row.origin) for name in names)

    def close(self, values: Sequence[Iterable[int]]) -> UInt8[np.ndarray, "N C"]:
        """Return ones at the classes of each example and zeros elsewhere."""
        ids = self._sorted()
        members = np.zeros((len(values), len(ids)), np.uint8)
        for row, classes in zip(members, values, strict=True):
            row[ids[list(classes)]] = 1
        return members


class WordLabels(_Classes):
    """A class for each word: their names as a JSON list, as corpora of tagged words write it.

    Stored is the number of words; the names stay with the texts.
    """

    def value(self, row: Row) -> int:
        """Return the number of a row's words.

        Raises:
            DataError: If a class is unknown.
        """
        names = json.loads(row.fields[self.field])
        for name in names:
            self._id(name, row.origin)
        return len(names)

    def close(self, values: Sequence[int]) -> Int[np.ndarray, " N"]:
        """Return the numbers of words."""
        self._sorted()
        return np.array(values, np.int64)


class Numbers(Labels):
    """A number, written with a decimal point."""

    def value(self, row: Row) -> float:
        """Return a row's number.

        Raises:
            DataError: If it is not a number, not finite, or too large for single precision.
        """
        text = row.fields[self.field]
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not abs(number) <= LARGEST:
            raise DataError(f"{row.origin} has the label {_shown(text)}, which is not a number; write one such as 3.5")
        return number

    def close(self, values: Sequence[float]) -> Float[np.ndarray, " N"]:
        """Return the numbers."""
        return np.array(values, np.float64)


def _shown(text: str) -> str:
    """Return a label as an error text shows it."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
