"""What an evaluation tells of its rows besides scores, as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

WIDEST_MATRIX = 20
"""Columns of a confusion matrix at most; of more classes only the most frequent confusions are shown."""

SHOWN_CONFUSIONS = 30


class Matrix(NamedTuple):
    """How often what was right was taken for what.

    Attributes:
        columns: What it was taken for.
        rows: What was right, and the counts in the order of the columns.
    """

    columns: list[str]
    rows: list[tuple[str, list[int]]]


class Confusion(NamedTuple):
    """One thing taken for another."""

    right: str
    made: str
    times: int


def checked(details: Any) -> Mapping[str, Any]:
    """Return details that can be shown.

    Raises:
        TypeError: If they are none.
    """
    if not isinstance(details, dict):
        raise TypeError(f"details: an object was expected, not {type(details).__name__}")
    calibration, confusion, errors = (
        details.get(name, kind) for name, kind in (("calibration", {}), ("confusion", {}), ("errors", []))
    )
    if not (isinstance(calibration, dict) and isinstance(confusion, dict) and isinstance(errors, list)):
        raise TypeError("details: calibration and confusion are objects, and errors are a list")
    if not all(isinstance(row, dict) for row in (*confusion.values(), *errors)):
        raise TypeError("details: the rows of confusion and errors are objects")
    return details


def matrix(confusion: Mapping[str, Mapping[str, int]]) -> Matrix | None:
    """Return a confusion as a matrix, in the order of what was right; None if it is too wide to be read."""
    place = {name: number for number, name in enumerate(confusion)}
    made = dict.fromkeys(name for row in confusion.values() for name in row)
    columns = sorted(made, key=lambda name: place.get(name, len(place)))
    if len(columns) > WIDEST_MATRIX:
        return None
    return Matrix(columns, [(right, [row.get(name, 0) for name in columns]) for right, row in confusion.items()])


def most_confused(confusion: Mapping[str, Mapping[str, int]]) -> list[Confusion]:
    """Return the most frequent confusions, the first ones first among equals."""
    found = [
        Confusion(right, made, count)
        for right, row in confusion.items()
        for made, count in row.items()
        if made != right
    ]
    return sorted(found, key=lambda one: -one.times)[:SHOWN_CONFUSIONS]
