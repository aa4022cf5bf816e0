"""What was taken for what, prepared for a page: a matrix, of many classes a part of it, and the largest confusions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

WIDEST_MATRIX = 20
"""Largest number of classes of a matrix; of more, those of the largest confusions are shown."""

SHOWN_CONFUSIONS = 30
"""Largest number of confusions that are listed."""

DECISIONS = {"found", "wrongly found", "missed"}
"""The columns where each class is a decision of its own, and nothing is taken for something else."""

LEVELS = 20
"""Number of shades of a cell."""

OTHERS = "all others"
"""The column of the predictions that are not shown."""


class Confusion(NamedTuple):
    """A label, a wrong prediction, how often it was made, and how often the label stood in the data."""

    label: str
    prediction: str
    rows: int
    of: int


class Cell(NamedTuple):
    """A cell of a matrix: its count, its class in the style sheet, and what it says in words."""

    rows: int
    kind: str
    told: str


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of predictions by label.

    Attributes:
        columns: Predictions.
        rows: Each label with its cells in the order of the columns.
        classes: Number of classes that labels and predictions have; `columns` may hold fewer.
        is_square: Whether something is taken for something else, so that the diagonal is what was right.
        has_others: Whether the last column stands for all predictions that have none.
    """

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    classes: int
    is_square: bool
    has_others: bool


Counts = Mapping[str, Mapping[str, int]]


def confusion_matrix(confusion: Counts) -> ConfusionMatrix:
    """Return counts by label and prediction, in the order of the labels.

    Of more than `WIDEST_MATRIX` classes only those of the largest confusions are there, and a column for all other
    predictions, so that every row still adds up to the label's rows.
    """
    columns = _in_order(confusion)
    if set(columns) <= DECISIONS:
        rows = [(label, [Cell(row.get(name, 0), "", "") for name in columns]) for label, row in confusion.items()]
        return ConfusionMatrix(columns, rows, len(confusion), is_square=False, has_others=False)
    classes = list(dict.fromkeys([*confusion, *columns]))
    if len(classes) <= WIDEST_MATRIX:
        return ConfusionMatrix(columns, _rows(confusion, list(confusion), columns), len(classes), True, False)
    kept = _most_confused_classes(confusion)
    shown = [name for name in classes if name in kept]
    rows = _rows(confusion, [name for name in shown if name in confusion], shown, others=True)
    return ConfusionMatrix([*shown, OTHERS], rows, len(classes), is_square=True, has_others=True)


def _in_order(confusion: Counts) -> list[str]:
    """Return the predictions: those that are labels in the order of the labels, the others after them."""
    position = {label: index for index, label in enumerate(confusion)}
    predictions = dict.fromkeys(prediction for row in confusion.values() for prediction in row)
    return sorted(predictions, key=lambda prediction: position.get(prediction, len(position)))


def _most_confused_classes(confusion: Counts) -> set[str]:
    """Return at most `WIDEST_MATRIX` classes: labels and predictions of the largest confusions; without any, the first."""
    kept: dict[str, None] = {}
    for one in largest_confusions(confusion, most=WIDEST_MATRIX * WIDEST_MATRIX):
        more = [name for name in (one.label, one.prediction) if name not in kept]
        if len(kept) + len(more) <= WIDEST_MATRIX:
            kept |= dict.fromkeys(more)
    return set(kept or list(confusion)[:WIDEST_MATRIX])


def _rows(
    confusion: Counts, labels: list[str], columns: list[str], others: bool = False
) -> list[tuple[str, list[Cell]]]:
    found = []
    for label in labels:
        total = sum(confusion[label].values())
        cells = [_cell(label, name, confusion[label].get(name, 0), total) for name in columns]
        if others:
            rest = total - sum(cell.rows for cell in cells)
            cells.append(Cell(rest, "", f"{label}: taken for other classes in {rest:,} of {total:,} rows"))
        found.append((label, cells))
    return found


def _cell(label: str, prediction: str, rows: int, total: int) -> Cell:
    if not rows:
        return Cell(0, "", "")
    right = label == prediction
    level = max(1, round(LEVELS * rows / total))
    said = f"{label}: right" if right else f"{label} taken for {prediction}"
    return Cell(
        rows, f"{'right' if right else 'wrong'}-{level}", f"{said} in {rows:,} of {total:,} rows ({rows / total:.1%})"
    )


def largest_confusions(confusion: Counts, most: int = SHOWN_CONFUSIONS) -> list[Confusion]:
    """Return the most frequent confusions, equally frequent ones in their given order; decisions have none."""
    if {name for row in confusion.values() for name in row} <= DECISIONS:
        return []
    confusions = [
        Confusion(label, prediction, count, sum(row.values()))
        for label, row in confusion.items()
        for prediction, count in row.items()
        if prediction != label and count
    ]
    return sorted(confusions, key=lambda confusion: -confusion.rows)[:most]
