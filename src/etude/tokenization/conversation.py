"""Conversations of a user with an assistant, and the JSON that they are written in."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")
KEYS = ("role", "content")
MORE: Mapping[str, tuple[str, ...]] = {"assistant": ("tool_calls",), "tool": ("tool_call_id", "name")}
"""Further keys of the messages of a role, which chat templates read."""

TOOLS = "tools"
"""Role of the message that stands before all others where the assistant has tools: a list of them, as JSON."""

HEAD = ("system", TOOLS)
"""Roles of what belongs to no turn."""

ADVICE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


class Message(NamedTuple):
    """What one side says at a time.

    Attributes:
        role: One of `ROLES`, or `TOOLS`.
        content: The text.
        more: Values of the keys `MORE` that are given; None: there are none.
    """

    role: str
    content: str
    more: Mapping[str, Any] | None = None


Conversation = tuple[Message, ...]
"""Messages in their order, at least one besides that of `TOOLS`."""


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
    tools = _tools(value.get(TOOLS)) if isinstance(value, dict) else ()
    return (*tools, *(_message(message, number) for number, message in enumerate(messages, 1)))


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
    tools, messages = tools_and_messages(conversation)
    return json.dumps({**({TOOLS: tools} if tools else {}), "messages": messages}, ensure_ascii=False)


def tools_and_messages(conversation: Conversation) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the assistant's tools, and all messages as the objects that JSON and chat templates have of them."""
    tools = [tool for message in conversation if message.role == TOOLS for tool in json.loads(message.content)]
    messages = [
        {"role": message.role, "content": message.content, **(message.more or {})}
        for message in conversation
        if message.role != TOOLS
    ]
    return tools, messages


def without_first_turns(conversation: Conversation, fits: Callable[[Conversation], bool]) -> Conversation | None:
    """Return a conversation without as few of its first turns as possible, so that it fits; None: none of it does.

    A turn is what a user says, and all up to what a user says next, calls of tools included. What a system says before the
    first turn stays, and so do the tools and the last turn with an answer.

    Args:
        conversation: The conversation.
        fits: Whether a conversation fits; one with fewer turns does if one with more does.
    """
    first = next((place for place, message in enumerate(conversation) if message.role not in HEAD), len(conversation))
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
    given = {key: one for key, one in value.items() if key not in KEYS and one is not None}
    for key in given:
        if key not in MORE.get(role, ()):
            raise ValueError(f"has a message {number} of the {role} with {key!r}, which is not read; take it out")
    if content is None and "tool_calls" in given:
        content = ""
    elif isinstance(content, list):
        content = "".join(_part(part, number) for part in content)
    elif not isinstance(content, str):
        raise ValueError(f"has a message {number} whose content is not a text but {type(content).__name__}")
    _refuse_half_surrogates((content, given), f"a message {number}")
    return Message(role, content, given or None)


def _part(value: Any, number: int) -> str:
    """Return the text of a part of a content, `{"type": "text", "text": "…"}`."""
    kind = value.get("type") if isinstance(value, dict) else type(value).__name__
    if kind != "text" or not isinstance(value.get("text"), str):
        raise ValueError(
            f"has a message {number} with a part that is no text but {kind!r}; leave the conversation out, or that part of it"
        )
    return str(value["text"])


def _tools(value: Any) -> tuple[Message, ...]:
    """Return the message of the tools, given their list or its JSON; nothing where there are none."""
    try:
        tools = json.loads(value) if isinstance(value, str) and value.strip() else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has 'tools' that are not JSON: {error}") from None
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("has 'tools' that are not a list of objects; write each as a JSON schema, or take them out")
    _refuse_half_surrogates(tools, "a tool")
    return (Message(TOOLS, json.dumps(tools, ensure_ascii=False)),)


def _refuse_half_surrogates(value: Any, owner: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"has {owner} with half of a surrogate pair") from None
