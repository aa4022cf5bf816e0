"""Chat templates: how a conversation becomes ids, and which of them the assistant has written.

A template is Jinja, in the layout of Hugging Face's tokenizers, and rendered by transformers. What it writes may hold the
tokenizer's special tokens. A message that holds the text of one holds that text, never the token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from jinja2 import TemplateError, TemplateSyntaxError

from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer
from etude.tokenization.conversation import Conversation, Message, tools_and_messages

TURNS = Path(__file__).with_name("turns.jinja").read_text(encoding="utf-8").strip()
"""The template of tokenizers that have none: `<s>user⏎Hello</s>assistant⏎Hello!</s>`."""

FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What rendering a template raises: its own messages, and whatever its expressions come to."""

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The begin of a block that the assistant writes."""

CLOCK = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
"""Before a template that asks for the date: what a run learns does not depend on the day. The date is that of Llama's own."""

OPEN, CLOSE = "\U000f0000", "\U000f0001"
"""Around the text of a special token in a message, between here and the encoding: private characters of Unicode."""

GUARDED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")

PROBE = (Message("user", "a"), Message("assistant", "b"))

Span = tuple[int, int]
"""The first and one past the last."""


class ChatTokens(NamedTuple):
    """A conversation as ids.

    Attributes:
        ids: All ids, those that a template writes before and after included.
        answers: The ids that the assistant has written, as ranges in ascending order; the token that ends a turn is one
            of them.
    """

    ids: list[int]
    answers: list[Span]


class ChatTemplate:
    """A template with the tokenizer whose special tokens it writes.

    Where the template marks what the assistant writes by `{% generation %}`, every token with a character of it is an
    answer's. Otherwise an answer is what the conversation up to it adds to the conversation before it, opened for the
    assistant: both must be the begin of the whole, id for id.

    Args:
        tokenizer: The tokenizer.
        source: The template; None: the tokenizer's own, or `TURNS`.

    Attributes:
        source: The template.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | None = None) -> None:
        self.source = source or tokenizer.chat_template or TURNS
        self._tokenizer = tokenizer
        self._marked = MARKED.search(self.source) is not None
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
        self._backend.encode_special_tokens = False
        special = tokenizer.special
        names = {"bos": special.bos, "eos": special.eos, "pad": special.pad, "unk": special.unknown}
        names |= {} if special.mask is None else {"mask": special.mask}
        self._variables = {f"{name}_token": token for name, token in names.items()}
        self._backend.add_special_tokens(list(dict.fromkeys(names.values())))
        added = self._backend.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        texts = sorted((added[number].content for number in self._special), key=len, reverse=True)
        self._special_text = re.compile("|".join(map(re.escape, texts)))

    @property
    def fingerprint(self) -> str:
        """Sha256 of all that determines the ids of a conversation."""
        return hashlib.sha256(f"1\n{self._tokenizer.fingerprint}\n{self.source}".encode()).hexdigest()

    @property
    def rendered_source(self) -> str:
        """The template as it is rendered: one that asks for the date is given a constant one."""
        return CLOCK + self.source if "strftime_now" in self.source else self.source

    @cached_property
    def turn_end(self) -> int:
        """The id that ends an assistant's turn.

        Raises:
            ConfigurationError: If the template cannot be rendered, or no special token is part of an answer.
        """
        try:
            ids, answers = self.encode(PROBE)
        except ValueError as error:
            raise ConfigurationError(f"{error}; give another one: data.chat_template=FILE.jinja") from error
        ends = [number for start, stop in answers for number in ids[start:stop] if number in self._special]
        if not ends:
            written = self._render(PROBE)[0]
            raise ConfigurationError(
                f"the chat template ends an answer with no special token ({written[-40:]!r}), so that a model would not learn "
                "where to end; write {{ eos_token }} after the assistant's content, inside of {% generation %} if it has that: "
                "data.chat_template=FILE.jinja"
            )
        return ends[-1]

    def encode(self, conversation: Conversation) -> ChatTokens:
        """Return the ids of a conversation.

        Raises:
            ValueError: If the template fails, or the assistant's tokens cannot be found; in one line.
        """
        return self._by_marks(conversation) if self._marked else self._by_prefixes(conversation)

    def prompt(self, conversation: Conversation) -> list[int]:
        """Return the ids of a conversation that the assistant has to answer.

        Raises:
            ValueError: If the template fails.
        """
        text, _ = self._render(conversation, opened=True)
        if not text:
            raise ValueError("the chat template writes nothing of the conversation")
        return self._ids_of([text])[text]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return ids as text, without special tokens."""
        return self._tokenizer.decode([ids])[0]

    def written(self, conversation: Conversation) -> str:
        """Return a conversation as the template writes it, with a space for each special token of its own.

        Raises:
            ValueError: If the template fails.
        """
        parts = self._parts(self._render(conversation)[0])
        return "".join(text if plain else self._special_text.sub(" ", text) for text, _, plain in parts)

    def _by_marks(self, conversation: Conversation) -> ChatTokens:
        text, spans = self._render(conversation)
        ids, places = self._with_places(text)
        answers = list[Span]()
        for start, stop in spans:
            inside = [n for n, (begin, end) in enumerate(places) if begin < stop and end > start and begin < end]
            if not inside:
                continue
            first, last = inside[0], inside[-1] + 1
            # Some templates mark the content alone: the token after it is what ends the turn.
            if not self._special.intersection(ids[first:last]) and last < len(ids) and ids[last] in self._special:
                last += 1
            first = max(first, answers[-1][1] if answers else 0)  # a token may have characters of two blocks
            if first < last:
                answers.append((first, last))
        return ChatTokens(ids, answers)

    def _by_prefixes(self, conversation: Conversation) -> ChatTokens:
        places = [place for place, message in enumerate(conversation) if message.role == "assistant"]
        befores = [self._render(conversation[:place], opened=True)[0] for place in places]
        afters = [self._render(conversation[: place + 1])[0] for place in places]
        written = self._render(conversation)[0]
        ids = self._ids_of(dict.fromkeys((written, *befores, *afters)))  # the last answer is often the end of all
        whole, answers = ids[written], list[Span]()
        for place, before, after in zip(
            places, (ids[text] for text in befores), (ids[text] for text in afters), strict=True
        ):
            begins = len(before) < len(after) and after[: len(before)] == before
            if not begins or whole[: len(after)] != after:
                count = len(tools_and_messages(conversation)[1])
                number = place + 1 - (len(conversation) - count)
                raise ValueError(
                    f"the chat template writes the first {number} messages otherwise where {count} are there or the "
                    "last is to be answered, so that the assistant's tokens cannot be told; mark them in the template by "
                    "{% generation %} and {% endgeneration %}"
                )
            answers.append((len(before), self._end(whole, len(before), len(after))))
        return ChatTokens(whole, answers)

    def _end(self, ids: Sequence[int], start: int, stop: int) -> int:
        """Return the end of an answer without the white space that a template writes after its last special token."""
        last = max((place + 1 for place in range(start, stop) if ids[place] in self._special), default=stop)
        return stop if self._backend.decode(list(ids[last:stop])).strip() else last

    def _render(self, conversation: Conversation, *, opened: bool = False) -> tuple[str, list[Span]]:
        """Return what the template writes, and which characters of it are marked as the assistant's."""
        # transformers takes most of a second to import.
        from transformers.utils.chat_template_utils import render_jinja_template

        tools, messages = tools_and_messages(conversation)
        self._refuse_unread(tools, messages)
        try:
            (text,), spans = render_jinja_template(
                conversations=[self._guarded(messages)],
                tools=self._guarded(tools) or None,
                chat_template=self.rendered_source,
                return_assistant_tokens_mask=self._marked,
                add_generation_prompt=opened,
                **self._variables,
            )
        except TemplateSyntaxError as error:
            raise ValueError(f"the chat template is not Jinja: {error.message} in its line {error.lineno}") from error
        except FAILURES as error:
            raise ValueError(f"the chat template refuses the conversation: {' '.join(str(error).split())}") from error
        return text, [(start, stop) for start, stop in spans[0]] if spans else []

    def _refuse_unread(self, tools: list[Any], messages: list[dict[str, Any]]) -> None:
        """Refuse what the template would leave out without a word.

        Raises:
            ValueError: If it does not write tools, or their calls, and there are some.
        """
        for name, given in (("tools", bool(tools)), ("tool_calls", any("tool_calls" in one for one in messages))):
            if given and name not in self.source:
                raise ValueError(
                    f"the conversation has '{name}', which the chat template does not write; give one that does "
                    "(data.chat_template=FILE.jinja), or take them out"
                )

    def _guarded(self, value: Any) -> Any:
        """Return a text, or all texts of a value of JSON, with marks around the texts of special tokens."""
        if isinstance(value, list):
            return [self._guarded(one) for one in value]
        if isinstance(value, Mapping):
            return {self._guarded(key): self._guarded(one) for key, one in value.items()}
        if not isinstance(value, str):
            return value
        if OPEN in value or CLOSE in value:
            raise ValueError(
                "a message has the private character U+F0000 or U+F0001, by which special tokens are told from text; take it out"
            )
        return self._special_text.sub(rf"{OPEN}\g<0>{CLOSE}", value)

    def _parts(self, text: str) -> list[tuple[str, int, bool]]:
        """Return a text in parts, each with its first character, and whether it is the text of a message's special token."""
        if OPEN not in text and CLOSE not in text:
            return [(text, 0, False)]
        parts, place = list[tuple[str, int, bool]](), 0
        for found in GUARDED.finditer(text):
            parts += [(text[place : found.start()], place, False), (found[1], found.start() + 1, True)]
            place = found.end()
        parts.append((text[place:], place, False))
        if any(mark in part for part, _, _ in parts for mark in (OPEN, CLOSE)):
            raise ValueError("the chat template cuts a message within the text of a special token; take that text out")
        return [part for part in parts if part[0]]

    def _ids_of(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Return the ids of texts that the template has written, by text."""
        parts = {text: self._parts(text) for text in texts}
        plain = [part for found in parts.values() for part, _, of_message in found if of_message]
        others = [part for found in parts.values() for part, _, of_message in found if not of_message]
        as_text = iter(self._tokenizer.encode(plain))
        encoded = iter(self._backend.encode_batch_fast(others, add_special_tokens=False))
        return {
            text: [n for _, _, of_message in found for n in (next(as_text) if of_message else next(encoded).ids)]
            for text, found in parts.items()
        }

    def _with_places(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the same ids, and the characters of the text that each represents."""
        ids, places = list[int](), list[Span]()
        for part, first, plain in self._parts(text):
            backend = self._tokenizer.backend if plain else self._backend
            encoding = backend.encode(part, add_special_tokens=False)
            ids += encoding.ids
            places += [(first + start, first + stop) for start, stop in encoding.offsets]
        return ids, places


@lru_cache(maxsize=4)
def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Return the template of a tokenizer, or `TURNS`; the last ones are remembered, since a large vocabulary takes a second."""
    return ChatTemplate(tokenizer)
