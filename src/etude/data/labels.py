"""What the label field of a row says: one class, several classes, or a number; and what is stored of it for a split.

Axes: N examples, C classes.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from etude.data.readers.sources import Row
from etude.errors import DataError


class Labels(ABC):
    """Reads the labels of a corpus, split by split; those of the training split come first.

    Args:
        field: The field of the label.
        classes: The names of the classes, where there are classes; None: they are learnt from the training split.
    """

    def __init__(self, field: str, classes: Sequence[str] | None = None) -> None:
        self.field = field

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their ids; empty where there are none."""
        return ()

    @abstractmethod
    def value(self, row: Row) -> Any:
        """Return what a row says.

        Raises:
            DataError: If it says nothing that can be learnt.
        """

    @abstractmethod
    def close(self, values: Sequence[Any]) -> Shaped[np.ndarray, "N ..."]:
        """Return what is stored of a split whose values these are; after that of training, no class is learnt any more."""


class _Classes(Labels):
    """Ids of class names: those of given classes, or of the training split in its own order, sorted at its end."""

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
                known = ", ".join(list(self._ids)[:8]) + (", …" if len(self._ids) > 8 else "")
                raise DataError(f"{origin} has the label {name!r}, which training has not; it has: {known}")
            self._ids[name] = len(self._ids)
        return self._ids[name]

    def _sorted(self) -> Int[np.ndarray, " C"]:
        """Sort learnt names, whole numbers by value, learn no more, and return the new id of each old one."""
        if not self._open:
            return np.arange(len(self._ids))
        numbers = all(name.isdecimal() for name in self._ids)
        names = sorted(self._ids, key=lambda name: (int(name), name) if numbers else (0, name))
        renumbered = np.zeros(len(names), np.int64)
        for number, name in enumerate(names):
            renumbered[self._ids[name]] = number
        self._ids, self._open = {name: number for number, name in enumerate(names)}, False
        return renumbered


class ClassLabels(_Classes):
    """One class: its name."""

    def value(self, row: Row) -> int:
        """Return the id of a row's class, before it is sorted.

        Raises:
            DataError: If the class is none of the given or learnt ones.
        """
        return self._id(row.fields[self.field], row.origin)

    def close(self, values: Sequence[int]) -> Int[np.ndarray, " N"]:
        """Return the ids."""
        return self._sorted()[np.array(values, np.int64)]


class SeveralLabels(_Classes):
    """Any number of classes: their names as a list in JSON, as tables write it (see `etude.data.readers.tables.read_rows`)."""

    def value(self, row: Row) -> tuple[int, ...]:
        """Return the ids of a row's classes, before they are sorted.

        Raises:
            DataError: If a class is none of the given or learnt ones.
        """
        return tuple(self._id(name, row.origin) for name in json.loads(row.fields[self.field]))

    def close(self, values: Sequence[Iterable[int]]) -> UInt8[np.ndarray, "N C"]:
        """Return a row of zeros and ones for each example."""
        ids = self._sorted()
        stored = np.zeros((len(values), len(ids)), np.uint8)
        for row, old in zip(stored, values, strict=True):
            row[ids[list(old)]] = 1
        return stored


class Numbers(Labels):
    """A number, written with a decimal point."""

    def value(self, row: Row) -> float:
        """Return a row's number.

        Raises:
            DataError: If it is none, or not finite.
        """
        text = row.fields[self.field]
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{row.origin} has the label {text!r}, which is no number; write one such as 3.5")
        return number

    def close(self, values: Sequence[float]) -> Float[np.ndarray, " N"]:
        """Return the numbers."""
        return np.array(values, np.float64)
