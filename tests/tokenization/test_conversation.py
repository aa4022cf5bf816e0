"""Conversations as JSON: what is read, what is refused and why, and which turns are left out."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.tokenization.conversation import (
    ROLES,
    TOOLS,
    Conversation,
    Message,
    as_json,
    is_conversation,
    read_conversation,
    without_first_turns,
)
from tests.tokenization.chat_templates import conversation

MESSAGES = st.lists(st.tuples(st.sampled_from(ROLES), st.text()), min_size=1, max_size=9)


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_what_is_written_is_read_again_in_both_forms(pairs: list[tuple[str, str]]) -> None:
    messages = tuple(Message(role, content) for role, content in pairs)
    assert read_conversation(as_json(messages)) == messages
    assert read_conversation(json.dumps([message._asdict() for message in messages])) == messages
    assert is_conversation(as_json(messages))
    assert is_conversation(json.dumps([message._asdict() for message in messages]))


@pytest.mark.parametrize("line", ["", "sun", "{", "[1, 2]", "[]", '{"text": "sun"}', '"sun"', "[sun]", "{sun}", "3"])
def test_any_other_line_is_no_conversation(line: str) -> None:
    assert not is_conversation(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sun", "is not JSON: Expecting value at column 1"),
        ("[" * 100_000, "is not JSON"),
        ("3", "is not a list of messages"),
        ('{"messages": []}', "is not a list of messages"),
        ('{"conversations": []}', r"has no key 'messages' \(its keys: conversations\)"),
        ("[3]", "message 1 that is not an object"),
        ('[{"from": "user", "value": "a"}]', r"message 1 without 'role' \(its keys: from, value\)"),
        ('[{"role": "user", "content": "a"}, {"role": "tools", "content": "a"}]', "message 2 of the role 'tools'"),
        ('[{"role": "user", "content": [{"type": "text"}]}]', "message 1 with a part that is no text but 'text'"),
        ('[{"role": "user", "content": [{"type": "image"}]}]', "message 1 with a part that is no text but 'image'"),
        ('[{"role": "user", "content": ["a"]}]', "message 1 with a part that is no text but 'str'"),
        ('[{"role": "user", "content": null}]', "message 1 whose content is not a text but NoneType"),
        (
            '[{"role": "user", "content": "a", "tool_calls": [1]}]',
            "message 1 of the user with 'tool_calls', which is not",
        ),
        ('{"tools": 3, "messages": [{"role": "user", "content": "a"}]}', "'tools' that are not a list of objects"),
        ('{"tools": "{", "messages": [{"role": "user", "content": "a"}]}', "'tools' that are not JSON"),
        ('{"tools": [{"a": "\\ud800"}], "messages": [{"role": "user", "content": "a"}]}', "half of a surrogate pair"),
        ('[{"role": "user", "content": "\\ud800"}]', "half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_said(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read_conversation(line)
    assert str(caught.value).isprintable()


def test_a_key_without_a_value_is_none() -> None:
    line = '[{"role": "user", "content": "a", "tool_calls": null}]'
    assert read_conversation(line) == (Message("user", "a"),)


def test_parts_of_text_are_one_text() -> None:
    parts = '[{"role": "user", "content": [{"type": "text", "text": "sun "}, {"type": "text", "text": "moon"}]}]'
    assert read_conversation(parts) == (Message("user", "sun moon"),)


@pytest.mark.parametrize("as_text", [True, False])
def test_tools_and_their_calls_are_written_and_read_again(as_text: bool) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Bonn"}}}]
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "name": "weather", "content": "no"},
    ]
    found = read_conversation(json.dumps({"tools": json.dumps(tools) if as_text else tools, "messages": messages}))
    assert [message.role for message in found] == [TOOLS, "user", "assistant", "tool"]
    assert json.loads(found[0].content) == tools
    assert found[2:] == (Message("assistant", "", {"tool_calls": calls}), Message("tool", "no", {"name": "weather"}))
    assert read_conversation(as_json(found)) == found
    assert without_first_turns((*found, *found[1:]), lambda part: len(part) == 4) == found


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.booleans(), st.integers(0, 40), st.integers(0, 9), st.booleans())
def test_as_few_first_turns_as_possible_are_left_out(
    turns: int, system: bool, room: int, seed: int, asked: bool
) -> None:
    whole = conversation(random.Random(seed), turns, system)
    whole = (*whole, Message("user", "sun")) if asked else whole

    def size(part: Conversation) -> int:
        return sum(len(message.content.split()) for message in part)

    def fits(part: Conversation) -> bool:
        return size(part) <= room

    found = without_first_turns(whole, fits)
    parts = [whole[:system] + whole[system + 2 * left :] for left in range(turns)]
    assert found == next((part for part in parts if fits(part)), None)


def test_what_is_to_be_answered_stays() -> None:
    messages = (Message("user", "a a"), Message("user", "b b"), Message("user", "c"))
    assert without_first_turns(messages, lambda part: len(part) == 1) == messages[2:]
    assert without_first_turns(messages, lambda part: False) is None
