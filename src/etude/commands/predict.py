"""A line in, a line out: what a trained run makes of texts, in their order, while they are still coming."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from etude.commands.evaluate import OVERRIDABLE
from etude.commands.record_lines import answered_records, answering, as_line
from etude.errors import ConfigurationError
from etude.runs.stored import stored_configuration
from etude.tasks.base import Task
from etude.tasks.prediction import Prediction
from etude.tokenization.base import Tokenizer
from etude.training.restore import load_members, load_run

_log = logging.getLogger(__name__)
CHUNK = 64
"""Lines that are worked on together, unless `batch.examples` says otherwise: it changes the speed and nothing else."""

OWN = ("checkpoint", "ensemble", "format")
"""Keys that are no part of a run's configuration."""


class Spoiled:
    """Counts lines whose answer is not all that was asked for, by what happened to them."""

    def __init__(self) -> None:
        self.lines = self.broken = self.cut = self.stopped = self.refused = 0

    def add(self, broken: bool, *, cut: bool = False, stopped: bool = False, refused: bool = False) -> None:
        """Count a line."""
        self.lines += 1
        self.broken += broken
        self.cut += cut
        self.stopped += stopped
        self.refused += refused

    def say(self) -> None:
        """Say each count that is not zero, in a line."""
        for count, what in (
            (self.broken, "had bytes that are no UTF-8; they were replaced by U+FFFD"),
            (self.cut, "had more tokens than the model reads; a part of each was left out"),
            (self.stopped, "have an answer that was stopped at its length limit"),
            (self.refused, "could not be read; their answers say why"),
        ):
            if count:
                _log.warning("%d of %d lines %s", count, self.lines, what)


def predict(run: Path, overrides: Mapping[str, Any], lines: BinaryIO, out: TextIO) -> None:
    """Write one line for each line, in order.

    Args:
        run: The run's folder.
        overrides: Dotted keys and values: `checkpoint`, `ensemble` (other runs that join this one), `format` (`text`: the
            first answer; `json`: an object with the text and all answers; `jsonl`: each line is an object, and the answer
            that object with more keys; by default what the task reads), and keys below `evaluate.OVERRIDABLE`.
        lines: Texts, or with `jsonl` objects, in UTF-8, one a line. Bytes that are no UTF-8 are replaced, and the lines counted.
        out: Where the answers go.
    """
    own = {key: overrides[key] for key in OWN if key in overrides}
    changes = {key: value for key, value in overrides.items() if key not in OWN}
    asked = _format(own["format"]) if "format" in own else None
    values = stored_configuration(run, changes, OVERRIDABLE)
    which = str(own.get("checkpoint", "best"))
    task, tokenizer = load_run(run, values, which)
    members = load_members(own.get("ensemble"), run, Path(values["paths"]["outputs"]), which)
    if members:
        task.join(list(members.values()))
    answer, spoiled = asked or _format(task.FORMAT), Spoiled()
    for chunk in _chunks(lines, int(values["batch"]["examples"] or CHUNK) if "batch.examples" in changes else CHUNK):
        out.writelines(f"{line}\n" for line in answer(chunk, task, tokenizer, spoiled))
        out.flush()
    spoiled.say()


Chunk = list[tuple[str, bool]]
"""Lines, each with whether it had broken bytes."""

Answering = Callable[[Chunk, Task, Tokenizer, Spoiled], Iterator[str]]


def _format(name: Any) -> Answering:
    formats: dict[str, Answering] = {
        "text": partial(_answered_texts, _plain),
        "json": partial(_answered_texts, _json),
        "jsonl": _answered_objects,
    }
    if name not in formats:
        raise ConfigurationError(f"format={name} is not one of {', '.join(formats)} (command line)")
    return formats[name]


def _answered_texts(
    written: Callable[[str, Prediction], str], chunk: Chunk, task: Task, tokenizer: Tokenizer, spoiled: Spoiled
) -> Iterator[str]:
    texts = [text for text, _ in chunk]
    # Texts of like length together: less padding, and the same answers.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found = task.predictions([texts[index] for index in order], tokenizer)
    answers = dict(zip(order, found, strict=True))
    for index, (text, broken) in enumerate(chunk):
        answer = answers[index]
        spoiled.add(broken, cut=answer.cut, stopped=not answer.outputs[0].finished)
        yield written(text, answer)


def _answered_objects(chunk: Chunk, task: Task, tokenizer: Tokenizer, spoiled: Spoiled) -> Iterator[str]:
    answers = answered_records([line for line, _ in chunk], answering(task), tokenizer)
    for answer, (_, broken) in zip(answers, chunk, strict=True):
        spoiled.add(broken, cut=answer.cut, refused=answer.refused)
        yield as_line(answer.values)


def _plain(_text: str, prediction: Prediction) -> str:
    """Return the first answer without line breaks of any kind, so that line n answers line n."""
    return " ".join(prediction.outputs[0].text.splitlines())


def _json(text: str, prediction: Prediction) -> str:
    return json.dumps({"text": text, "outputs": [asdict(output) for output in prediction.outputs]})


def _chunks(lines: BinaryIO, size: int) -> Iterator[list[tuple[str, bool]]]:
    """Yield the lines that have come, at most `size` at once, each with whether it has broken bytes.

    A thread reads ahead, so that a person who types gets an answer after each line.
    """
    if size < 1:
        raise ConfigurationError(f"batch.examples={size}: at least one line is worked on at a time")
    waiting: queue.Queue[bytes | None] = queue.Queue(maxsize=4 * size)

    def read() -> None:
        try:
            for line in lines:
                waiting.put(line)
        finally:  # whatever stopped the reading, nobody waits for more
            waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        chunk = [waiting.get()]
        while chunk[-1] is not None and len(chunk) < size and not waiting.empty():
            chunk.append(waiting.get())
        ended = chunk[-1] is None
        texts = [_decoded(line) for line in chunk if line is not None]
        if texts:
            yield texts


def _decoded(line: bytes) -> tuple[str, bool]:
    """Return a line as text, and whether some of its bytes had to be replaced."""
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return line.decode(), False
    except UnicodeDecodeError:
        return line.decode(errors="replace"), True
