"""Words and their tokens: each word begins at its own first token, and no word is lost to a division."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE, Bytes, Unigram, WordPiece
from etude.tokenization.word_tokens import divided, encode_words, first_tokens

TEXTS = [
    "the sun and the moon, 100 stars",
    "Ärger über naïve coöperation",
    "wind-swept isn't U.S. hills",
    "日本 語",
] * 3
RECIPES: dict[str, Any] = {
    "wordpiece": WordPiece(90, lowercase=False),
    "bpe": BPE(90),
    "unigram": Unigram(90),
    "bytes": Bytes(),
}
WORDS = st.text(st.sampled_from("abnosthewvisu,.'-10ÄüïöUS日本\u0301\x85"), min_size=1, max_size=7)
SENTENCES = st.lists(WORDS, max_size=8)


@cache
def tokenizer(name: str) -> Tokenizer:
    built: Tokenizer = RECIPES[name].build(TEXTS)
    return built


@pytest.mark.parametrize("name", RECIPES)
@given(words=SENTENCES)
def test_each_word_with_a_token_begins_at_one_of_its_own(name: str, words: list[str]) -> None:
    (encoded,) = encode_words(tokenizer(name), [words])
    text, starts = " ".join(words), np.cumsum([0, *(len(word) + 1 for word in words)])
    ((ids, offsets),) = tokenizer(name).encode_with_offsets([text])
    assert encoded.ids.tolist() == ids == tokenizer(name).encode([text])[0]
    assert len(encoded.firsts) == len(words)
    kept = encoded.firsts[encoded.firsts >= 0]
    assert (np.diff(kept) > 0).all()
    for number, first in enumerate(encoded.firsts):
        inside = [
            token
            for token, (start, end) in enumerate(offsets)
            if start < end and starts[number] <= start < starts[number] + len(words[number])
        ]
        assert first == (inside[0] if inside else -1)


@given(words=SENTENCES)
def test_alignment_is_that_of_word_ids(words: list[str]) -> None:
    wordpiece = tokenizer("wordpiece")
    encoding = wordpiece.backend.encode(words, is_pretokenized=True, add_special_tokens=False)
    (encoded,) = encode_words(wordpiece, [words])
    assert encoding.ids == encoded.ids.tolist()
    expected = [encoding.word_ids.index(number) if number in encoding.word_ids else -1 for number in range(len(words))]
    assert encoded.firsts.tolist() == expected


def test_a_word_of_nothing_but_control_characters_has_no_token() -> None:
    (encoded,) = encode_words(tokenizer("wordpiece"), [["the", "\x85", "sun"]])
    assert encoded.firsts[1] == -1 and (encoded.firsts[[0, 2]] >= 0).all()


def test_a_token_of_two_words_belongs_to_the_first() -> None:
    offsets = np.array([[0, 5], [5, 7], [7, 7], [7, 8]])
    assert first_tokens(["ab", "cd", "ef"], offsets).tolist() == [0, -1, 3]  # "ab cd" is one token


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 2))
def test_parts_have_every_word_once_and_fit(sizes: list[int], room: int, before: int) -> None:
    firsts = before + np.cumsum([0, *sizes[:-1]])
    tokens = before + sum(sizes)
    parts = divided(firsts, tokens, room)
    assert [word for part in parts for word in range(part.first_word, part.end_word)] == list(range(len(sizes)))
    for part in parts:
        assert 0 < part.end - part.start <= room
        assert all(part.start <= first < part.end for first in firsts[part.first_word : part.end_word])
        assert part.cut == (part.end_word - part.first_word == 1 and sizes[part.first_word] > room)
    if tokens <= room:
        assert len(parts) == 1 and (parts[0].start, parts[0].end) == (0, tokens)
    for part, after in pairwise(parts):  # no part could have held the next word too
        assert part.cut or after.cut or sum(sizes[part.first_word : part.end_word + 1]) > room


def test_a_text_without_words_has_no_parts() -> None:
    (encoded,) = encode_words(tokenizer("bpe"), [[]])
    assert encoded.parts(5) == []
