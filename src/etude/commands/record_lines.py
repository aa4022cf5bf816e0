"""An object a line, in JSON: what a run makes of the texts in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from etude.errors import ConfigurationError
from etude.tasks.base import Task
from etude.tasks.prediction import AnswersRecords, RecordAnswer
from etude.tokenization.base import Tokenizer

_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: an escape in JSON may be one, and no text has it."""


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
    merged = []
    for index, (record, error) in enumerate(parsed):
        answer = answers[index] if error is None else RecordAnswer.refusal(error)
        merged.append(replace(answer, values={**record, **answer.values}))
    return merged


def as_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line. Half of a surrogate pair, which UTF-8 cannot write, stays the escape that it came as."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _parsed(line: str, fields: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Return the object of a line, and what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}, "this is not JSON"
    if not isinstance(record, dict):
        return {}, "this is not an object in JSON"
    for field in fields:
        if not isinstance(record.get(field), str):
            return record, f"there is no text under {field!r}"
        if _HALF.search(record[field]):
            return record, f"the text under {field!r} has half of a surrogate pair"
    return record, None
