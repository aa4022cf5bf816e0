"""Word boundaries among the ids of a text, read from the pieces of a vocabulary.

Axes: V vocabulary, n tokens of one text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int8

from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer

SPACE = "▁"
BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č")
"""A space, a line feed, a tab and a carriage return in byte-level vocabularies."""


@dataclass(frozen=True)
class WordBoundaries:
    """Boundaries of words: runs of letters and digits, or of punctuation, each with the space before it.

    Attributes:
        marked: [V] whether the piece is marked as the beginning of a word.
        kinds: [V] 1 for letters and digits, -1 for punctuation, 0 for pieces of neither kind. A word also begins where the
            kind changes from 1 to -1 or back.
    """

    marked: Bool[np.ndarray, " V"]
    kinds: Int8[np.ndarray, " V"]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordBoundaries:
        """Read a vocabulary: in WordPiece's `##` continues a word; in others `▁` or byte-level `Ġ` begins one.

        Raises:
            ConfigurationError: If the tokenizer has no such marks.
        """
        parts = json.loads(tokenizer.backend.to_str())
        names = tokenizer.names(range(tokenizer.vocabulary))
        kinds = set(_types(parts["pre_tokenizer"])) | set(_types(parts["decoder"]))
        if parts["model"]["type"] == "WordPiece":
            # The pre-tokenizer makes punctuation a word of its own, so no piece of it continues a word.
            prefix = parts["model"]["continuing_subword_prefix"]
            return cls(np.array([not name.startswith(prefix) for name in names]), np.zeros(len(names), np.int8))
        if "ByteLevel" in kinds:
            return _marked_by(names, BYTE_SPACES, tokenizer, _kind_of_bytes)
        if "Metaspace" in kinds or SPACE in json.dumps(parts["decoder"], ensure_ascii=False):
            return _marked_by(names, (SPACE,), tokenizer, _kind)
        raise ConfigurationError(
            "the tokenizer marks neither the start of a word (▁, Ġ) nor its continuation (##): choose "
            "data/masking=tokens, or tokenizer=wordpiece, bpe, unigram or bytes"
        )

    def starts(self, ids: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Return whether each token begins a word. The first one does, though its word may have begun in another window."""
        kinds = self.kinds[ids]
        starts = self.marked[ids]
        starts[1:] |= kinds[1:] * kinds[:-1] == -1
        starts[:1] = True
        return starts


def _marked_by(
    names: list[str], marks: tuple[str, ...], tokenizer: Tokenizer, kind: Callable[[str], int]
) -> WordBoundaries:
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unknown, tokenizer.mask}
    kinds = [0 if number in special else kind(name.lstrip("".join(marks))) for number, name in enumerate(names)]
    return WordBoundaries(np.array([name.startswith(marks) for name in names]), np.array(kinds, np.int8))


def _kind(piece: str) -> int:
    """Return 1 for a piece with letters, digits or marks, -1 for punctuation alone, 0 for an empty piece."""
    if not piece:
        return 0
    return 1 if any(unicodedata.category(character)[0] in "LNM" for character in piece) else -1


def _kind_of_bytes(piece: str) -> int:
    """Return the kind of a byte-level piece, in which every byte that is not ASCII counts as part of a letter."""
    return _kind("".join(character if character.isascii() else "x" for character in piece))


def _types(part: Any) -> Iterator[str]:
    """Yield the types of a component of a tokenizer and of all its parts."""
    if isinstance(part, dict):
        yield str(part.get("type", ""))
        for inner in part.values():
            for component in inner if isinstance(inner, list) else ():
                yield from _types(component)
