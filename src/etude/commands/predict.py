"""`etude predict`: answers to lines of text, one per line and in order, while more lines arrive."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, BinaryIO, TextIO

from etude.commands.evaluate import CHANGEABLE
from etude.commands.record_lines import answered_records, as_line, record_task
from etude.errors import ConfigurationError, DataError
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.prediction import Prediction, choose_direction
from etude.tokenization.base import Tokenizer
from etude.training.restore import load_members, load_run

_log = logging.getLogger(__name__)
CHUNK = 64
"""Lines predicted together, unless `batch.examples` is given; it changes the speed and nothing else."""

SHOWN = 3
"""Lines without an answer of which it is said why."""


class ImperfectLines:
    """Counts of lines that could not be read or answered completely, by the reason."""

    def __init__(self) -> None:
        self.lines = self.broken = self.cut = self.stopped = self.refused = 0
        self.unanswered = list[str]()

    def add(
        self,
        broken: bool,
        *,
        cut: bool = False,
        stopped: bool = False,
        refused: bool = False,
        unanswered: str | None = None,
    ) -> None:
        """Count a line; of a text without an answer, with the reason."""
        self.lines += 1
        self.broken += broken
        self.cut += cut
        self.stopped += stopped
        self.refused += refused
        self.unanswered += [] if unanswered is None else [f"line {self.lines} {unanswered}"]

    def warn(self) -> None:
        """Log each count that is not zero."""
        for count, problem in (
            (self.broken, "had bytes that are not UTF-8; they were replaced by U+FFFD"),
            (self.cut, "had more tokens than the model reads; a part of each was left out"),
            (self.stopped, "have an answer that was stopped at its length limit"),
            (self.refused, "could not be read; their answers say why"),
            (len(self.unanswered), f"have no answer: {'; '.join(self.unanswered[:SHOWN])}"),
        ):
            if count:
                _log.warning("%d of %d lines %s", count, self.lines, problem)


def predict(
    run: SavedRun,
    lines: BinaryIO,
    out: TextIO,
    *,
    checkpoint: Any = "best",
    ensemble: Any = None,
    format: Any = None,  # noqa: A002 (the name that people type)
    direction: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Write one answer per line, in order.

    Args:
        run: The run.
        lines: Texts, or with `jsonl` objects, in UTF-8, one per line. Bytes that are not UTF-8 are replaced, and such lines
            counted.
        out: Destination of the answers.
        checkpoint: `best`, `last` or a step's number.
        ensemble: Other runs that form an ensemble with this one.
        format: `text`: the best answer; `json`: an object with the text and all answers; `jsonl`: each line is an object, and
            its answer that object with more keys; None: the task's own format.
        direction: Of a run that translates in several directions, the name of one, such as `en-fr`.
        changes: Values of configuration keys at or below `evaluate.CHANGEABLE`.
    """
    answer = None if format is None else _answerer(format)  # before the model is loaded
    predictor = Predictor.open(run, checkpoint, ensemble, changes, direction)
    answer, imperfect = answer or _answerer(predictor.task.FORMAT), ImperfectLines()
    for chunk in _chunks(lines, predictor.chunk):
        out.writelines(f"{line}\n" for line in answer(chunk, predictor.task, predictor.tokenizer, imperfect))
        out.flush()
    imperfect.warn()


@dataclass(frozen=True)
class Predictor:
    """A trained model that answers texts or records.

    Attributes:
        task: The task, with the members of its ensemble.
        tokenizer: Tokenizer of the run.
        chunk: Number of texts predicted together.
    """

    task: Task
    tokenizer: Tokenizer
    chunk: int = CHUNK

    @classmethod
    def open(
        cls,
        run: SavedRun,
        checkpoint: Any = "best",
        ensemble: Any = None,
        changes: Mapping[str, Any] | None = None,
        direction: Any = None,
    ) -> Predictor:
        """Load a run; the arguments are those of `predict`."""
        changes = changes or {}
        config = run.changed(changes, CHANGEABLE)
        task = load_run(run, config, str(checkpoint))
        members = load_members(ensemble, run, str(checkpoint))
        if members:
            task.join(list(members.values()))
        choose_direction(task, direction)
        return cls(task, run.tokenizer, int(config.batch.examples or CHUNK) if "batch.examples" in changes else CHUNK)

    def predictions(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the answers to each text, in the order of the texts."""
        answers: list[Prediction] = []
        for start in range(0, len(texts), self.chunk):
            answers += sorted_predictions(self.task, self.tokenizer, texts[start : start + self.chunk])
        return answers

    def answer_texts(self, texts: Sequence[str]) -> list[str]:
        """Return the best answer to each text.

        Raises:
            DataError: If a text cannot be answered.
        """
        answers = self.predictions(texts)
        for number, answer in enumerate(answers, 1):
            if answer.error is not None:
                raise DataError(f"text {number} {answer.error}")
        return [answer.text for answer in answers]

    def answer_records(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return each record with the values of its answer added, or with an `error`.

        Raises:
            ConfigurationError: If the task does not answer records.
        """
        answers: list[dict[str, Any]] = []
        for start in range(0, len(records), self.chunk):
            lines = [json.dumps(record) for record in records[start : start + self.chunk]]
            answers += [answer.values for answer in answered_records(lines, record_task(self.task), self.tokenizer)]
        return answers


def sorted_predictions(task: Task, tokenizer: Tokenizer, texts: Sequence[str]) -> list[Prediction]:
    """Return the answers to texts, predicted in order of length, which needs less padding."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    answers = task.predictions([texts[index] for index in order], tokenizer)
    by_index = dict(zip(order, answers, strict=True))
    return [by_index[index] for index in range(len(texts))]


Chunk = list[tuple[str, bool]]
"""Lines, each with whether it had invalid bytes."""

Answerer = Callable[[Chunk, Task, Tokenizer, ImperfectLines], Iterator[str]]
"""Yields the output line for each line of a chunk."""


def _answerer(name: Any) -> Answerer:
    formats: dict[str, Answerer] = {
        "text": partial(_answer_texts, _as_text),
        "json": partial(_answer_texts, _as_json),
        "jsonl": _answer_objects,
    }
    if name not in formats:
        raise ConfigurationError(f"format={name} is not one of {', '.join(formats)} (command line)")
    return formats[name]


def _answer_texts(
    render: Callable[[str, Prediction], str], chunk: Chunk, task: Task, tokenizer: Tokenizer, imperfect: ImperfectLines
) -> Iterator[str]:
    answers = sorted_predictions(task, tokenizer, [text for text, _ in chunk])
    for answer, (text, broken) in zip(answers, chunk, strict=True):
        imperfect.add(broken, cut=answer.cut, stopped=not answer.outputs[0].finished, unanswered=answer.error)
        yield render(text, answer)


def _answer_objects(chunk: Chunk, task: Task, tokenizer: Tokenizer, imperfect: ImperfectLines) -> Iterator[str]:
    answers = answered_records([line for line, _ in chunk], record_task(task), tokenizer)
    for answer, (_, broken) in zip(answers, chunk, strict=True):
        imperfect.add(broken, cut=answer.cut, refused=answer.refused)
        yield as_line(answer.values)


def _as_text(_text: str, prediction: Prediction) -> str:
    """Return the best answer without line breaks of any kind, so that line n answers line n."""
    return " ".join(prediction.text.splitlines())


def _as_json(text: str, prediction: Prediction) -> str:
    if prediction.error is not None:
        return json.dumps({"text": text, "error": prediction.error})
    return json.dumps({"text": text, "outputs": [asdict(output) for output in prediction.outputs]})


def _chunks(lines: BinaryIO, size: int) -> Iterator[list[tuple[str, bool]]]:
    """Yield the lines that have arrived, at most `size` at once, each with whether it has invalid bytes.

    A thread reads ahead, so that a person who types gets an answer after each line.
    """
    if size < 1:
        raise ConfigurationError(f"batch.examples={size}: at least one line is worked on at a time")
    arrived: queue.Queue[bytes | None] = queue.Queue(maxsize=4 * size)

    def read() -> None:
        try:
            for line in lines:
                arrived.put(line)
        finally:  # however reading stopped, the consumer must not wait for more
            arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        chunk = [arrived.get()]
        while chunk[-1] is not None and len(chunk) < size and not arrived.empty():
            chunk.append(arrived.get())
        ended = chunk[-1] is None
        texts = [_decoded(line) for line in chunk if line is not None]
        if texts:
            yield texts


def _decoded(line: bytes) -> tuple[str, bool]:
    """Return a line as text, and whether invalid bytes were replaced."""
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return line.decode(), False
    except UnicodeDecodeError:
        return line.decode(errors="replace"), True
