"""An object a line, in JSON: what a run makes of the texts in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etude.errors import ConfigurationError
from etude.tasks.base import Task
from etude.tasks.prediction import AnswersRecords, RecordAnswer
from etude.tokenization.tokenizer import Tokenizer


def answering(task: Task) -> AnswersRecords:
    """Return the task as one that answers records.

    Raises:
        ConfigurationError: If it does not.
    """
    if isinstance(task, AnswersRecords):
        return task
    raise ConfigurationError(
        f"format=jsonl: a {type(task).__name__} reads lines of text; write format=json (command line)"
    )


def answered_records(lines: Sequence[str], task: AnswersRecords, tokenizer: Tokenizer) -> list[RecordAnswer]:
    """Return what each line becomes: its object with the answer's values added, or an object with an `error`.

    Args:
        lines: Objects in JSON.
        task: What answers them.
        tokenizer: The run's.
    """
    parsed = [_parsed(line, task.fields) for line in lines]
    good = [index for index, (_, error) in enumerate(parsed) if error is None]
    # Texts of like length together: less padding, and the same answers.
    good.sort(key=lambda index: sum(len(parsed[index][0][field]) for field in task.fields))
    found = task.answer_records([parsed[index][0] for index in good], tokenizer) if good else []
    answers = dict(zip(good, found, strict=True))
    return [
        RecordAnswer({**record, "error": error})
        if error is not None
        else RecordAnswer({**record, **answers[index].values}, answers[index].cut)
        for index, (record, error) in enumerate(parsed)
    ]


def _parsed(line: str, fields: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Return the object of a line, and what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}, "this is not JSON"
    if not isinstance(record, dict):
        return {}, "this is not an object in JSON"
    missing = [field for field in fields if not isinstance(record.get(field), str)]
    return record, f"there is no text under {missing[0]!r}" if missing else None
