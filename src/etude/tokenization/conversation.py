"""Conversations of a user with an assistant, and the JSON that they are written in."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant")
KEYS = ("role", "content")
ADVICE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


class Message(NamedTuple):
    """What one side says at a time.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: The text.
    """

    role: str
    content: str


Conversation = tuple[Message, ...]
"""Messages in their order, at least one."""


def read_conversation(line: str) -> Conversation:
    """Return the conversation of a line of JSON: an object with `messages`, or the list of messages alone.

    Raises:
        ValueError: If it is none; the message continues a sentence whose subject is the line.
    """
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}; mend that line") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    return conversation_of(value)


def conversation_of(value: Any) -> Conversation:
    """Return the conversation that a parsed value describes; raises what `read_conversation` does."""
    if isinstance(value, dict) and "messages" not in value:
        raise ValueError(f"has no key 'messages' (its keys: {', '.join(map(str, value)) or 'none'}); write {ADVICE}")
    messages = value["messages"] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"is not a list of messages; write {ADVICE}")
    return tuple(_message(message, number) for number, message in enumerate(messages, 1))


def is_conversation(line: str) -> bool:
    """Whether a line is meant as a conversation: JSON with messages, be they right or wrong."""
    if not line.lstrip().startswith(("{", "[")):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, dict):
        return "messages" in value
    return bool(value) and all(isinstance(message, dict) and "role" in message for message in value)


def as_json(conversation: Conversation) -> str:
    """Return a conversation as a line that `read_conversation` reads."""
    return json.dumps({"messages": [message._asdict() for message in conversation]}, ensure_ascii=False)


def without_first_turns(conversation: Conversation, fits: Callable[[Conversation], bool]) -> Conversation | None:
    """Return a conversation without as few of its first turns as possible, so that it fits; None: none of it does.

    A turn is what a user says, and all up to what a user says next. What a system says before the first turn stays, and so
    does the last turn with an answer.

    Args:
        conversation: The conversation.
        fits: Whether a conversation fits; one with fewer turns does if one with more does.
    """
    first = next((place for place, message in enumerate(conversation) if message.role != "system"), len(conversation))
    last = max((place for place, message in enumerate(conversation) if message.role == "assistant"), default=first)
    if not any(message.role == "user" for message in conversation[first:last]):
        last = len(conversation)  # only what is to be answered is there
    begins = [first, *(p for p in range(first + 1, last) if conversation[p].role == "user")]
    parts = [conversation[:first] + conversation[begin:] for begin in begins]
    place = bisect_left(parts, True, key=fits)
    return parts[place] if place < len(parts) else None


def _message(value: Any, number: int) -> Message:
    """Return a message, given its parsed value and its number in the conversation."""
    if not isinstance(value, dict):
        raise ValueError(f"has a message {number} that is not an object; write {ADVICE}")
    for key in KEYS:
        if key not in value:
            keys = ", ".join(map(str, value)) or "none"
            raise ValueError(f"has a message {number} without {key!r} (its keys: {keys}); write {ADVICE}")
    role, content = (value[key] for key in KEYS)
    if role not in ROLES:
        raise ValueError(f"has a message {number} of the role {role!r}, which is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"has a message {number} whose content is not a text but {type(content).__name__}")
    more = [key for key, given in value.items() if key not in KEYS and given is not None]
    if more:
        raise ValueError(
            f"has a message {number} with {more[0]!r}, which is not read: only {' and '.join(KEYS)} are; take it out"
        )
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(f"has a message {number} whose content has half of a surrogate pair") from None
    return Message(role, content)
