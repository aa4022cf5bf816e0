"""Predictions for texts and records that are not part of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from etude.errors import ConfigurationError
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer


@dataclass(frozen=True)
class Output:
    """One answer.

    Attributes:
        text: The answer.
        score: Score that answers are ranked by; None if there is only one.
        finished: Whether it ended by itself, not at its length limit.
    """

    text: str
    score: float | None = None
    finished: bool = True


@dataclass(frozen=True)
class Prediction:
    """The answers to one text.

    Attributes:
        outputs: At least one answer, the best first.
        cut: Whether the text had more tokens than the model reads, and was truncated.
        error: Why the text cannot be answered, and its output is empty; None: it is answered.
    """

    outputs: tuple[Output, ...]
    cut: bool = False
    error: str | None = None

    @classmethod
    def refusal(cls, why: str) -> Prediction:
        """Return the answer to a text that cannot be answered."""
        return cls((Output(""),), error=why)

    @property
    def text(self) -> str:
        """The best answer."""
        return self.outputs[0].text


@dataclass(frozen=True)
class RecordAnswer:
    """The answer to one record.

    Attributes:
        values: Values of the answer by name.
        cut: Whether a text of the record had more tokens than the model reads, and was truncated.
        refused: Whether the record cannot be answered; `error` among the values is then the reason.
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
    """A task that answers records (texts by name) with values by name."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the texts that a record must have."""
        ...

    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return the answer to each record, whatever its neighbours are."""
        ...


@runtime_checkable
class TranslatesInDirections(Protocol):
    """A task that turns texts into texts, perhaps in several directions."""

    def choose_direction(self, name: str) -> None:
        """Translate texts that are not part of the data in this direction from now on.

        Raises:
            ConfigurationError: If the task was not trained on it.
        """
        ...


def choose_direction(task: object, name: Any) -> None:
    """Choose the direction of a task's predictions, as `direction=` on a command line does; None chooses nothing.

    Raises:
        ConfigurationError: If the task has no directions, or not this one.
    """
    if name is None:
        return
    if not isinstance(task, TranslatesInDirections):
        raise ConfigurationError(
            f"direction={name}: {type(task).__name__} does not translate; leave it out (command line)"
        )
    task.choose_direction(str(name))


@runtime_checkable
class ScoresTexts(Protocol):
    """A task that gives texts a log-likelihood.

    Attributes:
        LIKELIHOOD: What it is, in a word for signatures.
    """

    LIKELIHOOD: ClassVar[str]

    @property
    def text_limit(self) -> int:
        """Largest number of tokens of a text that is read whole."""
        ...

    def log_likelihoods(self, rows: Sequence[Sequence[int]], tokenizer: Tokenizer, size: int) -> list[float]:
        """Return the log-likelihood of each text, in nats.

        Args:
            rows: Ids of each text, without special ones, at most `text_limit` of them.
            tokenizer: Tokenizer of the ids.
            size: Number of texts that are read at once; scores differ by it in rounding only.
        """
        ...


@runtime_checkable
class Calibrates(Protocol):
    """A task whose probabilities can be calibrated."""

    def calibrate(self, rows: Sequence[Row]) -> None:
        """Fit the calibration on the judged rows of the validation split.

        It changes what `Task.details` reports, and no prediction.
        """
        ...
