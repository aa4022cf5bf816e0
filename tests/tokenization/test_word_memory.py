"""The word memory: the ids of every text are those that the backend gives for it whole, whatever it has seen before."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE, SPECIAL, Bytes, Unigram, WordPiece
from etude.tokenization.word_memory import (
    LONGEST_REMEMBERED,
    ByteIds,
    WholeTexts,
    WordMemory,
    divides_at_spaces,
    encoder,
)

TEXTS = ["the cat, sat on the mat.", "THE Cats (Sat) at 12:30; ΟΔΟΣ ΣΑΣ", "été naïve über", "日本 語", "a_b ▁c d"]
RECIPES: dict[str, BPE | Unigram | WordPiece] = {
    "bpe": BPE(120),
    "lowercased bpe": BPE(120, lowercase=True),
    "unigram": Unigram(120),
    "wordpiece": WordPiece(160),
    "cased wordpiece": WordPiece(160, lowercase=False),
}
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u200b\u3000\ufeff"
WORDS = st.sampled_from(
    ["the", "cat", "Σ", "ΑΣ", "e\u0301", "\u0301", "日本", "▁", "▁▁x", "##s", "<mask>", "[MASK]", ",", "x" * 70]
)
TEXT = st.lists(st.one_of(WORDS, st.text(st.sampled_from(SPACES), max_size=3), st.text(max_size=4))).map("".join)


@cache
def trained(kind: str) -> Tokenizer:
    return RECIPES[kind].build(TEXTS)


@pytest.mark.parametrize("kind", RECIPES)
@given(batches=st.lists(st.lists(TEXT, max_size=4), max_size=4), most=st.sampled_from([1, 5, 1000]))
def test_ids_are_those_of_whole_texts(kind: str, batches: list[list[str]], most: int) -> None:
    memory, tokenizer = WordMemory(trained(kind), "int32", most), trained(kind)
    for texts in batches:
        ids = [np.frombuffer(content, np.int32).tolist() for content in memory(texts)]
        assert ids == tokenizer.encode(texts)


@pytest.mark.parametrize("kind", RECIPES)
def test_which_tokenizers_divide_at_spaces(kind: str) -> None:
    backend = trained(kind).backend
    assert divides_at_spaces(backend)
    assert divides_at_spaces(tokenizers.Tokenizer.from_str(backend.to_str()))


def changed(**changes: object) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer.from_str(trained("bpe").backend.to_str())
    for name, value in changes.items():
        setattr(backend, name, value)
    return backend


def dropping() -> tokenizers.Tokenizer:
    backend = changed()
    backend.model.dropout = 0.1
    return backend


def with_a_phrase() -> tokenizers.Tokenizer:
    backend = changed()
    backend.add_tokens(["cat sat"])
    return backend


@pytest.mark.parametrize(
    "backend",
    [
        changed(normalizer=normalizers.NFC()),
        changed(pre_tokenizer=pre_tokenizers.ByteLevel()),
        changed(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never", split=False)),
        changed(pre_tokenizer=pre_tokenizers.BertPreTokenizer()),
        dropping(),
        with_a_phrase(),
        Bytes().build([]).backend,
        tokenizers.Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")),
    ],
)
def test_others_are_encoded_whole(backend: tokenizers.Tokenizer) -> None:
    assert not divides_at_spaces(backend)


def test_a_space_matters_where_it_is_said_to() -> None:
    backend = with_a_phrase()
    whole, *parts = (backend.encode(text, add_special_tokens=False).ids for text in ("cat sat", "cat", "sat"))
    assert whole != [*parts[0], *parts[1]]


def test_memory_does_not_grow_with_the_texts() -> None:
    memory = WordMemory(trained("bpe"), "uint16", most=50)
    for start in range(0, 1000, 10):
        memory([f"cat{number} {'y' * (LONGEST_REMEMBERED + 1)}" for number in range(start, start + 10)])
        assert len(memory._known) <= 50 and all(len(word) <= LONGEST_REMEMBERED for word in memory._known)


def test_the_choice_follows_the_tokenizer() -> None:
    assert isinstance(encoder(trained("bpe"), "uint16"), WordMemory)
    assert isinstance(encoder(Bytes().build([]), "uint16"), ByteIds)
    assert isinstance(encoder(Tokenizer(with_a_phrase(), SPECIAL), "uint16"), WholeTexts)


@given(st.lists(TEXT))
def test_bytes_are_those_of_the_tokenizer(texts: list[str]) -> None:
    tokenizer = Bytes().build([])
    for dtype in ("uint16", "int32"):
        assert encoder(tokenizer, dtype)(texts) == WholeTexts(tokenizer, dtype)(texts)


def test_every_byte_that_text_can_have() -> None:
    text = "".join(map(chr, [*range(0x100), 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF]))
    assert encoder(Bytes().build([]), "uint16")([text]) == WholeTexts(Bytes().build([]), "uint16")([text])
