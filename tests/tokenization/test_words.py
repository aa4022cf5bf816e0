"""Words among ids are those that the tokenizer's model encodes one at a time."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE, NAMES, SPECIAL, Bytes, Unigram, WordPiece
from etude.tokenization.word_boundaries import WordBoundaries

TEXTS = ["The lake (and the road) doesn't freeze... 5 stars! Größe, 3rd; déjà-vu — yes?"] * 5
RECIPES: list[BPE | Unigram | WordPiece] = [BPE(110), Unigram(110), WordPiece(160)]
TOKENIZERS = {type(recipe).__name__: recipe.build(iter(TEXTS)) for recipe in RECIPES}
boundaries = cache(WordBoundaries.of)


def words(tokenizer: Tokenizer, text: str) -> list[list[int]]:
    """Return the ids of a text, word by word."""
    ids = np.array(tokenizer.encode([text])[0], np.int64)
    starts = boundaries(tokenizer).starts(ids)
    return [word.tolist() for word in np.split(ids, np.flatnonzero(starts)[1:])] if len(ids) else []


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.lists(st.sampled_from([*"aeThld 53,.('!)-é", " the ", "lake"]), max_size=25).map("".join))
@settings(deadline=None, max_examples=60)
def test_words_are_those_that_are_encoded_one_at_a_time(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    model = tokenizer.backend.model
    expected = [[token.id for token in model.tokenize(word)] for word in tokenizer.words(text.strip())]
    assert words(tokenizer, text.strip()) == [ids for ids in expected if ids]


def test_bytes_begin_words_at_spaces_and_around_punctuation() -> None:
    tokenizer = Bytes().build(iter(()))
    found = [tokenizer.decode([ids])[0] for ids in words(tokenizer, "Größe, and\nmore")]
    assert found == ["Größe", ",", "and", "more"]


def test_byte_level_pieces_of_gpt_2_kind() -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=NAMES, show_progress=False, initial_alphabet=letters)
    backend.train_from_iterator(TEXTS, trainer)
    tokenizer = Tokenizer(backend, SPECIAL)
    found = [tokenizer.decode([ids])[0] for ids in words(tokenizer, "The lake, doesn't (freeze)")]
    assert found == ["The", "lake", ",", "doesn't", "(", "freeze", ")"]
