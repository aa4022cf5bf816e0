"""Objects in JSON, line by line: answered in their order, refused one by one, and written back with all their keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from etude.commands.record_lines import answered_records, as_line, record_task
from etude.errors import ConfigurationError
from etude.tasks.base import Task
from etude.tasks.prediction import RecordAnswer
from etude.tokenization.base import Tokenizer

TOKENIZER = cast(Tokenizer, None)


class Lengths:
    """Answers a record with the length of its text, and remembers in which order it was asked."""

    fields = ("text",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        self.asked += [record["text"] for record in records]
        return [RecordAnswer({"length": len(record["text"])}) for record in records]


def answered(*lines: str) -> list[dict[str, Any]]:
    return [answer.values for answer in answered_records(lines, Lengths(), TOKENIZER)]


def test_answers_stand_beside_the_keys_of_their_line() -> None:
    lines = ['{"id": 7, "text": "four"}', '{"text": "a", "id": 8}']
    assert answered(*lines) == [{"id": 7, "text": "four", "length": 4}, {"text": "a", "id": 8, "length": 1}]


def test_texts_of_like_length_are_asked_together() -> None:
    task = Lengths()
    answered_records([json.dumps({"text": text}) for text in ("long text", "a", "four")], task, TOKENIZER)
    assert task.asked == ["a", "four", "long text"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("no json", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        ("[1]", "this is not an object in JSON"),
        ('{"words": "a"}', "there is no text under 'text'"),
        ('{"text": 3}', "there is no text under 'text'"),
        (r'{"text": "\ud83d"}', "the text under 'text' has half of a surrogate pair"),
    ],
)
def test_a_line_that_cannot_be_answered_says_why_and_stops_no_other(line: str, error: str) -> None:
    first, second = answered_records([line, '{"text": "four"}'], Lengths(), TOKENIZER)
    assert (first.refused, first.values["error"]) == (True, error)
    assert (second.refused, second.values["length"]) == (False, 4)


def test_a_line_is_utf_8_whatever_is_in_it() -> None:
    assert as_line({"text": "Öl"}) == '{"text": "Öl"}'
    assert as_line({"text": "\ud83d"}).encode("utf-8") == rb'{"text": "\ud83d"}'


def test_a_task_of_texts_answers_no_records() -> None:
    with pytest.raises(ConfigurationError, match="reads lines of text; write format=json"):
        record_task(cast(Task, object()))
    task = Lengths()
    assert record_task(cast(Task, task)) is task
