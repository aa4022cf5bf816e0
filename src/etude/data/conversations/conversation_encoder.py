"""From conversations as JSON to the ids that a model reads, and the places of those that it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from etude.data.encode import EncodedBatch, token_type
from etude.data.readers.sources import Row
from etude.errors import DataError
from etude.tokenization.chat_template import ChatTemplate, ChatTokens
from etude.tokenization.conversation import Conversation, read_conversation, without_first_turns

Overflow = Literal["truncate", "drop"]
"""Treatment of conversations that are too long: `truncate` leaves out their first turns; `drop` does in val and test only."""


class StoredAnswers(NamedTuple):
    """What is stored of a conversation beside its ids.

    Attributes:
        text_bytes: Bytes in UTF-8 of what the assistant has written.
        spans: First and one past the last of the ids of each answer.
    """

    text_bytes: int
    spans: Int[np.ndarray, "n 2"]

    @classmethod
    def read(cls, stored: Int[np.ndarray, " m"]) -> StoredAnswers:
        """Return what `numbers` made a row of."""
        return cls(int(stored[0]), stored[1:].reshape(-1, 2))

    def numbers(self) -> list[int]:
        """Return all of it as a row of numbers."""
        return [self.text_bytes, *self.spans.ravel().tolist()]


class ConversationEncoder:
    """Encodes conversations up to the end of their last answer: nothing is learnt of what comes after it.

    Args:
        template: How they are written.
        vocabulary: Number of ids.
        max_length: Most ids that a model reads of one: all but the last.
        overflow: Treatment of longer ones. Of each, the last turn with an answer must fit; if it does not, the conversation
            is dropped from any split.
    """

    fields = ("conversation",)
    divides = False

    def __init__(self, template: ChatTemplate, vocabulary: int, max_length: int, overflow: Overflow) -> None:
        self.types: Mapping[str, str] = {"ids": token_type(vocabulary), "answers": "int32"}
        self._template, self._max_length, self._overflow = template, max_length, overflow

    def encode(self, rows: Sequence[Row], training: bool) -> EncodedBatch:
        """Return the examples of some rows.

        Raises:
            DataError: If the template fails on one of them.
        """
        tokens: dict[str, list[bytes]] = {field: [] for field in self.types}
        numbers, changes = np.ones(len(rows), np.int32), list[str]()
        for place, row in enumerate(rows):
            found, change = self._example(row, training)
            if change:
                changes.append(change)
            if found is None:
                numbers[place] = 0
                continue
            for (field, kind), values in zip(self.types.items(), found, strict=True):
                tokens[field].append(np.asarray(values, kind).tobytes())
        return EncodedBatch(tokens, numbers, changes)

    def _example(self, row: Row, training: bool) -> tuple[tuple[list[int], list[int]] | None, str | None]:
        """Return the ids and the stored answers of a row, None if it is dropped; and what was changed, None: nothing."""
        conversation = read_conversation(row.fields["conversation"])
        found = self._tokens(row.origin, conversation)
        if self._fits(found):
            return self._stored(conversation, found), None
        if training and self._overflow == "drop":
            return None, f"longer than {self._max_length} tokens"
        rest = without_first_turns(conversation, lambda part: self._fits(self._tokens(row.origin, part)))
        if rest is None:
            return None, f"with a last turn longer than {self._max_length} tokens"
        return self._stored(rest, self._tokens(row.origin, rest)), "truncated"

    def _fits(self, found: ChatTokens) -> bool:
        return found.answers[-1][1] - 1 <= self._max_length

    def _tokens(self, origin: str, conversation: Conversation) -> ChatTokens:
        try:
            found = self._template.encode(conversation)
        except ValueError as error:
            raise DataError(f"{origin}: {error}") from error
        answers = [(max(start, 1), stop) for start, stop in found.answers if stop > 1]  # nothing predicts the first id
        if not answers:
            raise DataError(
                f"{origin}: the chat template marks no token as the assistant's; put "
                "{% generation %} and {% endgeneration %} around what the assistant says, or leave both out"
            )
        return ChatTokens(found.ids, answers)

    def _stored(self, conversation: Conversation, found: ChatTokens) -> tuple[list[int], list[int]]:
        """Return the ids up to the end of the last answer, and the answers as numbers."""
        said = [message for message in conversation if message.role == "assistant"]
        texts = [message.content for message in said]
        if any(message.more for message in said):  # the template says how a call of a tool is written
            texts = [self._template.text_of(found.ids[start:stop]) for start, stop in found.answers]
        answers = StoredAnswers(sum(len(text.encode()) for text in texts), np.array(found.answers))
        return found.ids[: found.answers[-1][1]], answers.numbers()
