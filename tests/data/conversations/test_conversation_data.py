"""Files of conversations: what is read, packed, cut and counted; and which ids are labels."""

from __future__ import annotations

import gzip
import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.conversations.packed_conversations import Packing
from etude.data.corpora import ConversationFiles
from etude.data.sizes import Limit
from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.chat_template import TURNS, ChatTemplate
from etude.tokenization.conversation import Message, as_json
from etude.tokenization.trained import BPE, Bytes
from etude.types import IGNORED, ConversationBatch
from tests.data.conversations.small_conversations import batch_of, data_of, rows_of, some, write
from tests.tokenization.chat_templates import CALLING, CHATML, INSTRUCTIONS, TEMPLATES, conversation, make_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", some(40))
    write(tmp_path / "val.jsonl", some(9, seed=2))
    return tmp_path


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(0, 3))
def test_each_conversation_is_in_one_row_and_no_row_is_too_long(sizes: list[int], key: int) -> None:
    room, of = 30, np.array(sizes)
    packing = Packing.best_fit(of, room, key)
    assert sorted(packing.order.tolist()) == list(range(len(sizes)))
    filled = np.add.reduceat(of[packing.order], packing.starts[:-1])
    assert filled.max() <= room and (np.diff(packing.starts) > 0).all()
    # No two rows could have been one: what best fit promises, and with it at least half of the rows' room is used.
    assert len(filled) == 1 or np.sort(filled)[:2].sum() > room
    again = Packing.best_fit(of, room, key)
    assert (again.order == packing.order).all() and (again.starts == packing.starts).all()


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("packing", [True, False])
def test_labels_are_the_assistants_tokens_each_behind_what_was_said_before_it(
    folder: Path, name: str, packing: bool
) -> None:
    (folder / "template.jinja").write_text(TEMPLATES[name])
    data = data_of(folder, chat_template=str(folder / "template.jinja"), packing=packing)
    rows, template = rows_of(data), ChatTemplate(make_tokenizer(), TEMPLATES[name])
    encoded = map(template.encode, some(40))
    read = {tuple(found.ids[: found.answers[-1][1]]): found.answers for found in encoded}
    batch = batch_of(rows)
    assert isinstance(batch, ConversationBatch)
    assert (batch.documents is None) == (not packing)
    seen = 0
    for row in range(len(rows.lengths)):
        place = 0
        for number, ids in enumerate(rows.ids(row)):
            answers = read[tuple(ids)]
            learnt = [any(start <= n < stop for start, stop in answers) for n in range(len(ids))]
            end = place + len(ids) - 1
            assert batch.tokens[row, place:end].tolist() == ids[:-1]
            expected = [token if taught else IGNORED for token, taught in zip(ids, learnt, strict=True)][1:]
            assert batch.labels[row, place:end].tolist() == expected
            if batch.documents is not None:
                assert batch.documents[row, place:end].tolist() == [number] * (end - place)
            place, seen = end, seen + 1
        assert (batch.labels[row, place:] == IGNORED).all() and not batch.mask[row, place:].any()
        assert place == rows.lengths[row]
        assert int((batch.labels[row] != IGNORED).sum()) == rows.counts[row]
    assert seen == 40
    said = sum(len(m.content.encode()) for one in some(40) for m in one if m.role == "assistant")
    assert int(batch.text_bytes.sum()) == said
    filler = batch_of(rows, 0, filler=True)
    assert (filler.labels == IGNORED).all() and filler.ids.tolist() == [-1] and filler.text_bytes.tolist() == [0]


def test_packed_and_alone_the_same_is_learnt(folder: Path) -> None:
    packed, alone = rows_of(data_of(folder)), rows_of(data_of(folder, packing=False))
    assert len(packed.lengths) < len(alone.lengths) == 40
    assert packed.counts.sum() == alone.counts.sum() and packed.lengths.sum() == alone.lengths.sum()
    assert len(rows_of(data_of(folder), "val").lengths) == 9  # in evaluation each is alone


def test_long_conversations_lose_their_first_turns_or_are_dropped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system = Message("system", "Say it backwards.")
    long, longest = conversation(random.Random(1), 9), (Message("user", "sun"), Message("assistant", "moon " * 99))
    write(folder / "train.jsonl", [(system, *long), longest, *some(3, turns=1)])
    write(folder / "val.jsonl", [long, longest, *some(3, turns=1)])
    data = data_of(folder, max_length=60)
    with caplog.at_level(logging.INFO, logger="etude"):
        assert data.names
    first = {
        split: data.decode([ids])[0]
        for split in ("train", "val")
        for ids in [list(data.prepared.splits[split].tokens["ids"][0])]
    }
    lost = {"truncated": 1, "with a last turn longer than 60 tokens": 1}
    assert data.prepared.dropped == {"train": lost, "val": lost}
    assert "train: 4 examples; left out or cut: 1 truncated, 1 with a last turn longer than 60 tokens" in caplog.text
    assert first["train"].startswith("system\nSay it backwards.user\n") and first["val"].startswith("user\n")
    for text in first.values():
        assert text.endswith(long[-1].content) and long[0].content not in text.split("user\n")[1]
    assert max(len(ids) for ids in map(data.prepared.splits["train"].tokens["ids"].__getitem__, range(4))) <= 61
    dropping = data_of(folder, max_length=60, overflow="drop")
    assert dropping.prepared.dropped["train"] == {"longer than 60 tokens": 2}
    assert dropping.prepared.dropped["val"] == data.prepared.dropped["val"]  # a score is over every row that fits


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sun", r"train\.jsonl:2 is not JSON: Expecting value at column 1; mend that line"),
        ('{"text": "sun"}', r"train\.jsonl:2 has no key 'messages' \(its keys: text\)"),
        ('[{"role": "robot", "content": "a"}]', r"train\.jsonl:2 has a message 1 of the role 'robot'"),
        ('[{"role": "user", "content": 3}]', r"train\.jsonl:2 has a message 1 whose content is not a text but int"),
        (
            '[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]',
            r"train\.jsonl:2: the chat template refuses the conversation: Turns must alternate\.",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named(folder: Path, line: str, words: str) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write("")
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(DataError, match=words) as caught:
        _ = data_of(folder, make_tokenizer(INSTRUCTIONS)).prepared
    assert str(caught.value).isprintable()


def test_without_an_answer_it_is_counted_and_at_last_refused(folder: Path) -> None:
    unanswered = (Message("user", "sun"),)
    write(folder / "train.jsonl", [unanswered, *some(3), unanswered])
    with (folder / "train.jsonl").open("ab") as file:
        file.write(b"\xff\n")
    data = data_of(folder)
    assert data.prepared.dropped["train"] == {"without an assistant's turn": 2, "not UTF-8 text": 1}
    assert data.describe()["conversations"] == {"train": 3, "val": 9}
    write(folder / "train.jsonl", [unanswered] * 2)
    with pytest.raises(
        DataError, match=r"no conversation with an assistant's turn; dropped: 2 without .*first at train\.jsonl:1"
    ):
        _ = data_of(folder).prepared


def test_calls_of_tools_are_answers_too(folder: Path) -> None:
    tool = '{"type": "function", "function": {"name": "weather"}}'
    call = '{"type": "function", "function": {"name": "weather", "arguments": {"place": "lake"}}}'
    asked = '{"role": "user", "content": [{"type": "text", "text": "rain "}, {"type": "text", "text": "lake"}]}'
    line = f'{{"tools": [{tool}], "messages": [{asked}, {{"role": "assistant", "content": null, "tool_calls": [{call}]}}]}}'
    (folder / "val.jsonl").write_text(line + "\n")
    data = data_of(folder, make_tokenizer(CALLING))
    exchange = data.exchange("val", 0)
    answer = '{"name": "weather", "arguments": {"place": "lake"}}'
    assert (exchange.question, exchange.answer) == ("rain lake", answer)
    assert data.text("val", "text", 0).startswith(f"system\n{tool}")
    assert rows_of(data, "val").answers(0).text_bytes == len(answer)
    opened = f'{{"tools": [{tool}], "messages": [{{"role": "assistant", "content": "Rain?"}}]}}'
    (folder / "val.jsonl").write_text(opened + "\n")
    assert data_of(folder, make_tokenizer(CALLING)).exchange("val", 0).question == ""
    (folder / "val.jsonl").write_text(line + "\n")
    with pytest.raises(
        DataError, match=r"val\.jsonl:1: the conversation has 'tools', which the chat template does not"
    ):
        _ = data_of(folder).prepared


def test_a_share_is_held_out_by_what_is_said_first(tmp_path: Path) -> None:
    system = Message("system", "The same in all of them.")
    many = [(system, Message("user", f"question {n}"), Message("assistant", f"answer {n}")) for n in range(200)]
    write(tmp_path / "train.jsonl", [*many, *many])
    with gzip.open(tmp_path / "train.jsonl.gz", "wb") as file:
        file.write((tmp_path / "train.jsonl").read_bytes())
    (tmp_path / "train.jsonl").unlink()
    corpus = ConversationFiles("train.jsonl", None, None, root=str(tmp_path), val_share=0.2)
    rows = {split: [row.fields["conversation"] for row in corpus.rows(split)] for split in ("train", "val")}
    assert corpus.splits() == ("train", "val")
    assert not {*rows["train"]} & {*rows["val"]} and len(rows["train"]) + len(rows["val"]) == 400
    assert 40 < len(rows["val"]) < 120
    few = ConversationFiles("train.jsonl", None, None, root=str(tmp_path), val_share=0.0)
    with pytest.raises(DataError, match=r"no conversation for val with data\.val_share=0; write another share, or"):
        list(few.rows("val"))


def test_the_template_is_the_file_or_the_tokenizers_or_the_simple_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "template.jinja").write_text(INSTRUCTIONS)
    given = str(folder / "template.jinja")
    own = make_tokenizer(CHATML)
    with caplog.at_level(logging.INFO):
        found = [
            data.tokenizer.chat_template
            for data in (data_of(folder, own, chat_template=given), data_of(folder, own), data_of(folder))
        ]
    assert found == [INSTRUCTIONS, CHATML, TURNS]
    assert caplog.text.count("the tokenizer has no chat template") == 1
    prints = {data_of(folder, own, **more).prepared.fingerprint for more in ({}, {"chat_template": given})}
    assert len(prints) == 2
    assert data_of(folder, own).facts.turn_end == own.backend.token_to_id("<|im_end|>") != own.eos
    with pytest.raises(DataError, match="no such file"):
        _ = data_of(folder, chat_template=str(folder / "nowhere.jinja")).prepared
    (folder / "template.jinja").write_text("{% for %}")
    with pytest.raises(ConfigurationError, match=r"is not Jinja: .*data\.chat_template=FILE"):
        _ = data_of(folder, chat_template=given).prepared


def test_a_tokenizer_is_trained_on_what_the_template_writes(folder: Path) -> None:
    (folder / "template.jinja").write_text(INSTRUCTIONS)
    data = data_of(folder, BPE(120), chat_template=str(folder / "template.jinja"))
    tokenizer = data.tokenizer
    ids, _ = ChatTemplate(tokenizer).encode(some(1)[0])
    assert tokenizer.unknown not in ids and "[INST]" in tokenizer.decode([ids])[0]
    assert isinstance(tokenizer, Tokenizer) and tokenizer.backend.token_to_id("▁star") is not None
    again = data_of(folder, BPE(120), chat_template=str(folder / "template.jinja"))
    assert again.tokenizer.fingerprint == tokenizer.fingerprint


def test_texts_and_the_last_exchange(folder: Path) -> None:
    last = (*some(1)[0], Message("user", "sun moon"), Message("assistant", "moon sun"), Message("user", "wind"))
    write(folder / "val.jsonl", [last])
    data = data_of(folder, Bytes())
    exchange = data.exchange("val", 0)
    assert (exchange.question, exchange.answer) == ("sun moon", "moon sun")
    assert exchange.prompt == ChatTemplate(data.tokenizer).prompt(last[:-2])
    assert data.text("val", "text", 0).endswith("moon sun") and data.fields("val") == ["text"]
    overfit = data_of(folder, Bytes(), limit=Limit(train=5, overfit=True))
    assert overfit.exchange("val", 0).answer in (folder / "train.jsonl").read_text()


@pytest.mark.parametrize(
    ("settings", "words"), [({"max_length": 0}, "leaves no"), ({"overflow": "cut"}, "overflow='cut'")]
)
def test_settings_that_are_none(folder: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        data_of(folder, **settings)


def test_marks_that_mark_nothing_are_an_error(folder: Path) -> None:
    nothing = CHATML + "{% if false %}{% generation %}x{% endgeneration %}{% endif %}"
    (folder / "template.jinja").write_text(nothing)
    with pytest.raises(ConfigurationError, match="no special token"):
        _ = data_of(folder, chat_template=str(folder / "template.jinja")).prepared
    marks = "{% if messages|length < 3 %}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{% endif %}"
    only_short = CHATML.replace("{{ '<|im_start|>'", marks + "{{ '<|im_start|>'")
    (folder / "template.jinja").write_text(only_short)
    write(folder / "train.jsonl", [conversation(random.Random(1), 4)])
    with pytest.raises(DataError, match=r"train\.jsonl:1: the chat template marks no token as the assistant's"):
        _ = data_of(folder, chat_template=str(folder / "template.jinja")).prepared


def test_a_line_is_json_of_any_form(tmp_path: Path) -> None:
    one = some(1)[0]
    bare = json.dumps([message._asdict() for message in one])
    (tmp_path / "t.jsonl").write_text(f"{as_json(one)}\n{bare}\n")
    rows = list(ConversationFiles("t.jsonl", "t.jsonl", None, root=str(tmp_path)).rows("train"))
    assert rows[0].fields == rows[1].fields and [row.origin for row in rows] == ["t.jsonl:1", "t.jsonl:2"]
