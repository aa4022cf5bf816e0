"""What a task makes of a text that somebody types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer


@dataclass(frozen=True)
class Output:
    """One answer.

    Attributes:
        text: The answer.
        score: What answers are ranked by; None where there is only one.
        finished: False: it was stopped at its length limit.
    """

    text: str
    score: float | None = None
    finished: bool = True


@dataclass(frozen=True)
class Prediction:
    """The answers to one text.

    Attributes:
        outputs: At least one, the one to take first.
        cut: Whether the text had more tokens than the model reads, and lost a part of them.
    """

    outputs: tuple[Output, ...]
    cut: bool = False


@dataclass(frozen=True)
class RecordAnswer:
    """The answer to one record.

    Attributes:
        values: By name.
        cut: Whether a text of the record had more tokens than the model reads, and lost its end.
        refused: Whether the record cannot be answered; then `error` among the values says why.
    """

    values: dict[str, Any]
    cut: bool = False
    refused: bool = False

    @classmethod
    def refusal(cls, why: str) -> RecordAnswer:
        """Return the answer to a record that cannot be answered."""
        return cls({"error": why}, refused=True)


@runtime_checkable
class AnswersRecords(Protocol):
    """A task that answers records of texts by name with values by name."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts that a record must have."""
        ...

    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return the answer to each record, whatever its neighbours are."""
        ...


@runtime_checkable
class Calibrates(Protocol):
    """A task whose probabilities are held against what happened."""

    def calibrate(self, rows: Sequence[Row]) -> None:
        """Learn from the judged rows of the validation split how far probabilities can be believed.

        It changes what `Task.details` tells, and no prediction.
        """
        ...
