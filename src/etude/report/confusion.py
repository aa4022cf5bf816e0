"""The details of an evaluation besides its scores, prepared for a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

WIDEST_MATRIX = 20
"""Largest number of columns of a confusion matrix; with more, only the most frequent confusions are shown."""

SHOWN_CONFUSIONS = 30
"""Largest number of confusions listed in place of a matrix."""


class ConfusionMatrix(NamedTuple):
    """Counts of predictions by label.

    Attributes:
        columns: Predictions.
        rows: Each label with its counts in the order of the columns.
    """

    columns: list[str]
    rows: list[tuple[str, list[int]]]


class Confusion(NamedTuple):
    """A label, a wrong prediction, and how often it was made."""

    label: str
    prediction: str
    rows: int


def confusion_matrix(confusion: Mapping[str, Mapping[str, int]]) -> ConfusionMatrix | None:
    """Return counts by label and prediction as a matrix, in the order of the labels; None if it is too wide to read."""
    position = {label: index for index, label in enumerate(confusion)}
    predictions = dict.fromkeys(prediction for row in confusion.values() for prediction in row)
    columns = sorted(predictions, key=lambda prediction: position.get(prediction, len(position)))
    if len(columns) > WIDEST_MATRIX:
        return None
    return ConfusionMatrix(
        columns, [(label, [row.get(prediction, 0) for prediction in columns]) for label, row in confusion.items()]
    )


def most_confused(confusion: Mapping[str, Mapping[str, int]]) -> list[Confusion]:
    """Return the most frequent confusions, equally frequent ones in their given order."""
    confusions = [
        Confusion(label, prediction, count)
        for label, row in confusion.items()
        for prediction, count in row.items()
        if prediction != label
    ]
    return sorted(confusions, key=lambda confusion: -confusion.rows)[:SHOWN_CONFUSIONS]
