"""What is stored of a conversation: its ids up to the last answer, and where the answers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.conversations.conversation_encoder import ConversationEncoder, StoredAnswers
from etude.data.readers.sources import Row
from etude.tokenization.chat_template import ChatTemplate
from etude.tokenization.conversation import Conversation, Message, as_json
from tests.data.conversations.small_conversations import some
from tests.tokenization.chat_templates import CHATML, make_tokenizer

TEMPLATE = ChatTemplate(make_tokenizer(), CHATML)


def encoder(max_length: int, overflow: str = "truncate") -> ConversationEncoder:
    return ConversationEncoder(TEMPLATE, make_tokenizer().vocabulary, max_length, overflow)  # type: ignore[arg-type]


def row(conversation: Conversation) -> Row:
    return Row({"conversation": as_json(conversation)}, "t.jsonl:1")


@settings(max_examples=30)
@given(st.integers(0, 99), st.lists(st.tuples(st.integers(0, 50), st.integers(51, 99)), min_size=1, max_size=5))
def test_answers_are_read_as_they_were_stored(text_bytes: int, spans: list[tuple[int, int]]) -> None:
    stored = StoredAnswers(text_bytes, np.array(spans)).numbers()
    again = StoredAnswers.read(np.array(stored, np.int32))
    assert again.text_bytes == text_bytes and again.spans.tolist() == [list(span) for span in spans]


def test_what_comes_after_the_last_answer_is_not_stored() -> None:
    conversation = (*some(1)[0], Message("user", "sun moon star"))
    encoded = encoder(128).encode([row(conversation)], training=True)
    ids = np.frombuffer(encoded.tokens["ids"][0], encoder(128).types["ids"])
    answers = StoredAnswers.read(np.frombuffer(encoded.tokens["answers"][0], np.int32))
    whole = TEMPLATE.encode(conversation)
    assert ids.tolist() == whole.ids[: whole.answers[-1][1]] and len(ids) < len(whole.ids)
    assert [tuple(span) for span in answers.spans.tolist()] == whole.answers
    assert (encoded.numbers.tolist(), list(encoded.changes)) == ([1], [])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("overflow", ["truncate", "drop"])
def test_the_limit_is_exact(training: bool, overflow: str) -> None:
    """All ids but the last are read: so many fit, and with one fewer something is lost."""
    (conversation,) = some(1, seed=4, turns=1)
    read = TEMPLATE.encode(conversation).answers[-1][1] - 1
    whole = encoder(read, overflow).encode([row(conversation)], training)
    assert (whole.numbers.tolist(), list(whole.changes)) == ([1], [])
    lost = encoder(read - 1, overflow).encode([row(conversation)], training)
    reason = f"longer than {read - 1} tokens"
    dropped = overflow == "drop" and training
    assert lost.numbers.tolist() == [0]
    assert list(lost.changes) == [reason if dropped else f"with a last turn {reason}"]


def test_a_first_id_that_is_learnt_has_nothing_that_predicts_it() -> None:
    bare = ChatTemplate(
        make_tokenizer(),
        "{% for m in messages %}{% generation %}{{ eos_token }}{% endgeneration %}{{ m.content }}{% endfor %}",
    )
    conversation = (Message("user", "sun"), Message("assistant", "moon"))
    assert bare.encode(conversation).answers[0] == (0, 1)
    found = ConversationEncoder(bare, 330, 99, "truncate").encode([row(conversation)], training=True)
    answers = StoredAnswers.read(np.frombuffer(found.tokens["answers"][0], np.int32))
    assert answers.spans.tolist() == [list(bare.encode(conversation).answers[1])]
