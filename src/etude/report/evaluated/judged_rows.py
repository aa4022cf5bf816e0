"""What the rows of an evaluation say of its probabilities: labels and probabilities, as arrays.

Axes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int

from etude.report.evaluated.confusion import DECISIONS
from etude.runs.reading import ADVICE, read_rows
from etude.untrusted import BrokenFileError


class _ClassRow(msgspec.Struct):
    """A row of classification, as far as it is read here."""

    label: int
    logits: list[float]


class _LabelsRow(msgspec.Struct):
    """A row of several labels, as far as it is read here."""

    labels: list[int]
    probabilities: list[float]


_Row = TypeVar("_Row", _ClassRow, _LabelsRow)


@dataclass(frozen=True)
class JudgedClasses:
    """Rows of which each has one class.

    Attributes:
        logits: Logits, [N, C].
        labels: The right class, [N].
        temperature: Divisor of the logits for calibrated probabilities; None if none was fitted.
    """

    logits: Float64[np.ndarray, "N C"]
    labels: Int[np.ndarray, " N"]
    temperature: float | None

    def probabilities(self, temperature: float = 1.0) -> Float64[np.ndarray, "N C"]:
        """Return softmax(logits / temperature), [N, C]."""
        scaled = self.logits / temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def decisions(self) -> list[tuple[int, Float64[np.ndarray, " N"], Bool[np.ndarray, " N"]]]:
        """Return each class with its probabilities and where it is right, of two classes; of more, nothing."""
        if self.logits.shape[1] != 2:
            return []
        probabilities = self.probabilities()
        return [(number, probabilities[:, number], self.labels == number) for number in range(2)]


@dataclass(frozen=True)
class JudgedLabels:
    """Rows of which each has any number of classes.

    Attributes:
        probabilities: Probability of each class, [N, C].
        labels: Whether the class is right, [N, C].
    """

    probabilities: Float64[np.ndarray, "N C"]
    labels: Bool[np.ndarray, "N C"]

    def decisions(self) -> list[tuple[int, Float64[np.ndarray, " N"], Bool[np.ndarray, " N"]]]:
        """Return each class with its probabilities and where it is right."""
        return [
            (number, self.probabilities[:, number], self.labels[:, number]) for number in range(self.labels.shape[1])
        ]


def judged_rows(path: Path, details: Mapping[str, Any]) -> JudgedClasses | JudgedLabels | None:
    """Return the probabilities of an evaluation; None if its task has none, or its rows were not kept.

    Args:
        path: File of the rows, `RUN/evaluations/<name>.jsonl`.
        details: What the evaluation says of its rows.

    Raises:
        BrokenFileError: If the rows cannot be read, or are not those of such an evaluation.
    """
    columns = {column for row in details.get("confusion", {}).values() for column in row}
    of_labels = bool(columns) and columns <= DECISIONS
    if not path.exists() or not (of_labels or details.get("calibration")):
        return None
    rows = read_rows(path.parents[1], path.stem)
    if not rows:
        return None
    if of_labels:
        several = _converted(path, rows, _LabelsRow)
        probabilities = _grid(path, [row.probabilities for row in several])
        labels = np.zeros(probabilities.shape, bool)
        for number, row in enumerate(several, start=1):
            labels[number - 1, [_class(path, number, label, len(row.probabilities)) for label in row.labels]] = True
        return JudgedLabels(probabilities, labels)
    single = _converted(path, rows, _ClassRow)
    logits = _grid(path, [row.logits for row in single])
    right = [_class(path, number, row.label, logits.shape[1]) for number, row in enumerate(single, start=1)]
    temperature = details["calibration"].get("temperature")
    fitted = float(temperature) if isinstance(temperature, int | float) and temperature > 0 else None
    return JudgedClasses(logits, np.array(right, np.int64), fitted)


def _converted(path: Path, rows: Sequence[Mapping[str, Any]], kind: type[_Row]) -> list[_Row]:
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(msgspec.convert(row, kind))
        except msgspec.ValidationError as error:
            raise BrokenFileError(f"{path}, line {number}", str(error), ADVICE) from error
    return found


def _grid(path: Path, lines: Sequence[Sequence[float]]) -> Float64[np.ndarray, "N C"]:
    """Return lists of finite numbers, which must be of one length."""
    for number, line in enumerate(lines, start=1):
        if len(line) != len(lines[0]) or not np.isfinite(line).all():
            raise BrokenFileError(
                f"{path}, line {number}", f"has not {len(lines[0])} finite numbers, one a class", ADVICE
            )
    return np.array(lines, np.float64)


def _class(path: Path, line: int, label: int, classes: int) -> int:
    if not 0 <= label < classes:
        raise BrokenFileError(f"{path}, line {line}", f"label {label} is none of {classes} classes", ADVICE)
    return label
