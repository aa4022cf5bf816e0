"""JSON lines: the answers to records, one object per line."""

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
"""An unpaired surrogate: JSON can escape one, but no valid text contains it."""


def record_task(task: Task) -> AnswersRecords:
    """Return the task if it answers records.

    Raises:
        ConfigurationError: If it answers only texts.
    """
    if isinstance(task, AnswersRecords):
        return task
    raise ConfigurationError(
        f"format=jsonl: a {type(task).__name__} reads lines of text; write format=json (command line)"
    )


def answered_records(lines: Sequence[str], task: AnswersRecords, tokenizer: Tokenizer) -> list[RecordAnswer]:
    """Return for each line its object with the answer's values added, or with an `error`.

    Args:
        lines: JSON objects.
        task: The task that answers them.
        tokenizer: Tokenizer of the run.
    """
    parsed = [_parsed(line, task.fields) for line in lines]
    valid = [index for index, (_, error) in enumerate(parsed) if error is None]
    # Similar lengths together: less padding, and the same answers.
    valid.sort(key=lambda index: sum(len(parsed[index][0][field]) for field in task.fields))
    records = [parsed[index][0] for index in valid]
    answers = dict(zip(valid, task.answer_records(records, tokenizer) if valid else [], strict=True))
    merged = []
    for index, (record, error) in enumerate(parsed):
        answer = answers[index] if error is None else RecordAnswer.refusal(error)
        merged.append(replace(answer, values={**record, **answer.values}))
    return merged


def as_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON. Unpaired surrogates, which UTF-8 cannot encode, stay escaped."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _parsed(line: str, fields: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Return the object of a line, and what is wrong with it, if anything."""
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
