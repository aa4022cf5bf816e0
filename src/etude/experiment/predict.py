"""A line in, a line out: what a trained run makes of texts, in their order, while they are still coming."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import torch

from etude.errors import ConfigurationError
from etude.experiment.build import build_task
from etude.experiment.evaluate import OVERRIDABLE, find_checkpoint
from etude.experiment.stored import stored_configuration
from etude.store.saver import read_weights
from etude.tasks.base import Task
from etude.tokenization.tokenizer import Tokenizer
from etude.types import Facts

_log = logging.getLogger(__name__)
CHUNK = 64
"""Lines that are worked on together, unless `batch.examples` says otherwise: it changes the speed and nothing else."""


def predict(run: Path, overrides: Mapping[str, Any], lines: BinaryIO, out: TextIO) -> None:
    """Write one line for each line, in order.

    Args:
        run: The run's folder.
        overrides: Dotted keys and values: `checkpoint`, and keys below `evaluate.OVERRIDABLE`.
        lines: Texts in UTF-8, one a line. Bytes that are no UTF-8 are replaced, and the lines counted.
        out: Where the answers go.
    """
    own = {key: value for key, value in overrides.items() if key != "checkpoint"}
    values = stored_configuration(run, own, OVERRIDABLE)
    task, tokenizer = load_run(run, values, str(overrides.get("checkpoint", "best")))
    chunk = int(values["batch"]["examples"] or CHUNK) if "batch.examples" in own else CHUNK
    total = 0
    for texts, broken in _chunks(lines, chunk):
        total += broken
        # Texts of like length together: less padding, and the same answers.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        answers = dict(zip(order, task.predict_texts([texts[index] for index in order], tokenizer), strict=True))
        out.writelines(f"{_one_line(answers[index])}\n" for index in range(len(texts)))
        out.flush()
    if total:
        _log.warning("%d lines had bytes that are no UTF-8; they were replaced by U+FFFD", total)


def load_run(run: Path, values: dict[str, Any] | None = None, which: str = "best") -> tuple[Task, Tokenizer]:
    """Return the task of a run with the weights of a checkpoint, ready to predict, and its tokenizer.

    Args:
        run: The run's folder.
        values: The run's configuration, where it was changed.
        which: `best`, `last` or a step's number.
    """
    values = values or stored_configuration(run)
    task = build_task(values, Facts.from_json(json.loads((run / "facts.json").read_text())))
    task.load_state_dict(read_weights(find_checkpoint(run, which)))
    device = "cuda" if torch.cuda.is_available() and values["trainer"]["accelerator"] in ("auto", "gpu") else "cpu"
    return task.to(device).eval(), Tokenizer.load(run / "tokenizer")


def _chunks(lines: BinaryIO, size: int) -> Iterator[tuple[list[str], int]]:
    """Yield the lines that have come, at most `size` at once, and how many of them have broken bytes.

    A thread reads ahead, so that a person who types gets an answer after each line.
    """
    if size < 1:
        raise ConfigurationError(f"batch.examples={size}: at least one line is worked on at a time")
    waiting: queue.Queue[bytes | None] = queue.Queue(maxsize=4 * size)

    def read() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        chunk = [waiting.get()]
        while chunk[-1] is not None and len(chunk) < size and not waiting.empty():
            chunk.append(waiting.get())
        ended = chunk[-1] is None
        texts = [line.decode(errors="replace").rstrip("\r\n") for line in chunk if line is not None]
        if texts:
            yield texts, sum("\ufffd" in text for text in texts)


def _one_line(text: str) -> str:
    """Return a text without line breaks, so that line n answers line n."""
    return " ".join(text.splitlines())
