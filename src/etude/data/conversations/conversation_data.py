"""Conversations for instruction tuning: the tokens that the assistant has written are learnt, all others are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from etude.data.base import DataSettings, PlannedData
from etude.data.conversations.conversation_encoder import ConversationEncoder, Overflow
from etude.data.conversations.packed_conversations import PackedConversations, Packing, read_sizes
from etude.data.prepare import Corpus, Prepared, Split, encoded, finished_tokenizer, followed
from etude.data.readers.sources import read_text
from etude.errors import ConfigurationError, DataError
from etude.seeding import mix
from etude.tokenization.chat_template import ChatTemplate, template_of
from etude.tokenization.conversation import TOOLS, Conversation, read_conversation
from etude.tokenization.trained import Bytes
from etude.types import Exchange, Facts

OVERFLOWS = ("truncate", "drop")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenConversations:
    """The training conversations as a template writes them, without special tokens: what a tokenizer is trained on.

    Attributes:
        corpus: Source of the conversations.
        template: The template.
    """

    corpus: Corpus
    template: ChatTemplate

    def __iter__(self) -> Iterator[str]:
        for row in followed(self.corpus.rows("train"), "for the tokenizer"):
            try:
                yield self.template.written(read_conversation(row.fields["conversation"]))
            except ValueError as error:
                raise DataError(f"{row.origin}: {error}") from error

    def of(self, field: str) -> Iterator[str]:
        """Refuse to divide conversations into fields.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"a vocabulary of its own for {field}: conversations have one; choose another tokenizer"
        )


class ConversationData(PlannedData):
    """Conversations from a corpus with the field `conversation`, whole, several of them in a row for training.

    In evaluation each has a row of its own. A limit counts conversations.

    Args:
        corpus: Source of the conversations.
        max_length: Most tokens that are read of a conversation, and of a row.
        chat_template: File of the template, in Jinja; None: that of the tokenizer, or `etude.tokenization.chat_template.TURNS`
            where it has none.
        overflow: Treatment of longer conversations: `truncate` leaves out their first turns, `drop` the conversation in
            training.
        packing: Whether conversations share rows in training. It changes the speed, and which of them are in a step.
        settings: As in `PlannedData`.

    Raises:
        ConfigurationError: If `max_length` or `overflow` is none.
    """

    BATCH: ClassVar[str] = "ConversationBatch"

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        chat_template: str | None = None,
        overflow: Overflow = "truncate",
        packing: bool = True,
        *,
        settings: DataSettings,
    ) -> None:
        super().__init__(corpus, max_length, settings=settings)
        if overflow not in OVERFLOWS:
            raise ConfigurationError(f"data.overflow={overflow!r} is not one of {', '.join(OVERFLOWS)}")
        if max_length < 1:
            raise ConfigurationError(f"data.max_length={max_length} leaves no token to read; give a larger one")
        self.chat_template, self.overflow, self.packing = chat_template, overflow, packing

    def read(self) -> Prepared:
        """Return the conversations as ids, with the tokenizer and the template that made them."""
        given = None if self.chat_template is None else read_text(Path(self.chat_template).expanduser())
        plain = Bytes().build(iter(()))
        texts = WrittenConversations(self.corpus, ChatTemplate(plain, given))
        read = (self.corpus.fingerprint(), "conversation", texts.template.source)
        tokenizer = finished_tokenizer(self.settings.tokenizer, texts, read, self.settings.cache)
        if given is None and tokenizer.chat_template is None:
            _log.info(
                "the tokenizer has no chat template; conversations are written by etude's own (data.chat_template)"
            )
        template = ChatTemplate(tokenizer, given)
        return encoded(
            self.corpus,
            tokenizer.with_chat_template(template.source),
            ConversationEncoder(template, tokenizer.vocabulary, self.max_length, self.overflow),
            key=("conversations 1", template.fingerprint, template.turn_end, self.max_length, self.overflow),
            stored=("conversation",),
            cache=self.settings.cache,
        )

    def examples(self, split: Split, *, training: bool) -> PackedConversations:
        """Return the rows of a split."""
        packing = Packing.alone(len(split))
        if training and self.packing:
            packing = Packing.best_fit(read_sizes(split), self.max_length, mix("packing", self.settings.seed))
        return PackedConversations(split, self.facts, packing)

    @property
    def facts(self) -> Facts:
        """The vocabulary, the special ids, and the id that ends an assistant's turn."""
        tokenizer = self.tokenizer
        end = template_of(tokenizer).turn_end
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask, turn_end=end)

    def fields(self, split: str) -> list[str]:
        """Return the names of the fields that `text` knows."""
        return ["text"]

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return the text of a row, decoded from its ids."""
        return "\n".join(self.decode(self._rows(split).ids(example)))

    def exchange(self, split: str, example: int) -> Exchange:
        """Return the last exchange of a conversation that is evaluated."""
        rows, conversation = self._rows(split), self._messages(split, example)
        (ids,), (number,) = rows.ids(example), rows.conversations(example)
        last = max(place for place, message in enumerate(conversation) if message.role == "assistant")
        asked = [message.content for message in conversation[:last] if message.role != TOOLS]
        question = asked[-1] if asked else ""
        start, stop = rows.answers(number).spans[-1].tolist()
        answer = conversation[last].content
        if conversation[last].more:  # a call of a tool, as the template writes it
            (answer,) = self.decode([ids[start:stop]])
        return Exchange(ids[:start], question, answer)

    def _messages(self, split: str, example: int) -> Conversation:
        (number,) = self._rows(split).conversations(example)
        read_from = self._split("train" if self.settings.limit.overfit else split)
        return read_conversation(read_from.texts["conversation"][number])

    def _rows(self, split: str) -> PackedConversations:
        return cast(PackedConversations, self.splits[split])

    def describe(self) -> dict[str, Any]:
        """Add the number of conversations; `rows` are those of the batches."""
        counts = {name: len(cast(PackedConversations, rows).packing.order) for name, rows in self.splits.items()}
        return {**super().describe(), "conversations": counts}
