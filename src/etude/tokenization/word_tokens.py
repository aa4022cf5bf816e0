"""Words of a text and the tokens that represent them: which token begins each word, and where a long text is divided.

Axes: W words, n tokens of one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from etude.tokenization.base import Tokenizer

BETWEEN = " "
"""What stands between words. A text is encoded whole, so that a tokenizer sees words as it does in running text."""


class Part(NamedTuple):
    """A part of a text that the model reads at once.

    Attributes:
        start: Its first token.
        end: One past its last token.
        first_word: Its first word, of those that have a token.
        end_word: One past its last word.
        cut: Whether tokens of its last word, which alone has more than there is room for, are left out.
    """

    start: int
    end: int
    first_word: int
    end_word: int
    cut: bool


@dataclass(frozen=True)
class WordTokens:
    """The tokens of a text of words.

    Attributes:
        ids: [n] ids, without special tokens.
        firsts: [W] the first token of each word; -1 if it has none of its own.
    """

    ids: Int[np.ndarray, " n"]
    firsts: Int[np.ndarray, " W"]

    def parts(self, room: int) -> list[Part]:
        """Return the parts of the text, in order: as few as hold all words that have tokens, divided between words.

        Args:
            room: Most tokens of a part.
        """
        return divided(self.firsts[self.firsts >= 0], len(self.ids), room)


def divided(firsts: Int[np.ndarray, " W"], tokens: int, room: int) -> list[Part]:
    """Return the parts of a text, as `WordTokens.parts` does.

    Args:
        firsts: The first token of each word, all of which have one.
        tokens: Number of tokens of the text.
        room: Most tokens of a part.
    """
    if len(firsts) == 0:
        return []
    ends = np.append(firsts[1:], tokens)
    parts, word, start = list[Part](), 0, 0
    if ends[-1] > room:
        start = int(firsts[0])  # what stands before the first word is no word's, and there is little room
    while word < len(firsts):
        after = max(int(np.searchsorted(ends, start + room, side="right")), word + 1)
        end = int(ends[after - 1])
        parts.append(Part(start, min(end, start + room), word, after, end > start + room))
        word, start = after, end
    return parts


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[WordTokens]:
    """Return the tokens of sentences of words, as those of the words joined by `BETWEEN`."""
    encoded = tokenizer.encode_with_offsets([BETWEEN.join(words) for words in sentences])
    return [
        WordTokens(np.array(ids, np.int64), first_tokens(words, np.array(offsets, np.int64).reshape(-1, 2)))
        for words, (ids, offsets) in zip(sentences, encoded, strict=True)
    ]


def first_tokens(words: Sequence[str], offsets: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, " W"]:
    """Return the first token that begins in each word; -1 if none does.

    A token that begins in one word and ends in another belongs to the first of them, as in the `word_ids` of tokenizers.

    Args:
        words: The words, as `BETWEEN` joins them.
        offsets: First and one past the last character of each token; tokens without characters belong to no word.
    """
    sizes = np.array([len(word) for word in words], np.int64)
    starts = np.cumsum(sizes + len(BETWEEN)) - sizes - len(BETWEEN)
    shown = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    begins = np.append(offsets[shown, 0], np.iinfo(np.int64).max)
    places = np.searchsorted(begins, starts, side="left")
    return np.where(begins[places] < starts + sizes, np.append(shown, -1)[places], -1)
