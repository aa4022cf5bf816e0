"""Ids of many texts, as the bytes that are stored of them. A word that was seen before is only looked up.

Most words of a corpus have occurred before. Where a tokenizer encodes what stands between two spaces independently of what
stands around it, a text's ids are those of its parts, one after the other; `divides_at_spaces` knows the tokenizers of which
that is certain. Texts of any other tokenizer are encoded whole.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tokenizers
from tokenizers.pre_tokenizers import BertPreTokenizer

from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import NAMES, Bytes, keeping_spaces

REMEMBERED_WORDS = 500_000
"""Words that are remembered: some hundred megabytes."""

LONGEST_REMEMBERED = 64
"""Characters of a word that is remembered."""

ENCODED_TOGETHER = 200
"""New words whose ids come in one answer of the library, which saves it most of its time."""

LETTERS: dict[str, Literal["H", "i"]] = {"uint16": "H", "int32": "i"}
"""The letter of `array` and `memoryview` for each type in which ids are stored."""

EncodedTexts = Callable[[Sequence[str]], list[bytes]]
"""Function from texts to the bytes of each one's ids."""


def encoder(tokenizer: Tokenizer, dtype: str) -> EncodedTexts:
    """Return the fastest function that gives each text's ids, without special tokens, as bytes.

    Args:
        tokenizer: The tokenizer.
        dtype: Type of the ids: `uint16` or `int32`.
    """
    if tokenizer.fingerprint == Bytes().build(()).fingerprint:
        return ByteIds(dtype)
    return WordMemory(tokenizer, dtype) if divides_at_spaces(tokenizer.backend) else WholeTexts(tokenizer, dtype)


class WholeTexts:
    """Encodes each text whole.

    Args:
        tokenizer: The tokenizer.
        dtype: Type of the ids: `uint16` or `int32`.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: str) -> None:
        self._tokenizer = tokenizer
        self._letter = LETTERS[dtype]

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of each text."""
        return [array(self._letter, ids).tobytes() for ids in self._tokenizer.encode(texts)]


class ByteIds:
    """Encodes by the tokenizer of bytes: the ids of special tokens come first, then those of the 256 bytes.

    Args:
        dtype: Type of the ids: `uint16` or `int32`.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of each text."""
        contents = (np.frombuffer(text.encode(), np.uint8) for text in texts)
        return [(content.astype(self._dtype) + self._dtype.type(len(NAMES))).tobytes() for content in contents]


class WordMemory:
    """Encodes what stands between two spaces once, and remembers it.

    Args:
        tokenizer: A tokenizer that divides at spaces.
        dtype: Type of the ids: `uint16` or `int32`.
        most: Words that are remembered.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: str, most: int = REMEMBERED_WORDS) -> None:
        self._backend = tokenizer.backend
        self._dtype = np.dtype(dtype)
        self._most = most
        self._known: dict[str, bytes] = {}

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of each text."""
        # A line feed is white space to all these tokenizers; as a space it divides too.
        words = [text.replace("\n", " ").split(" ") for text in texts]
        new = set[str]().union(*words).difference(self._known)
        if len(self._known) + len(new) > self._most:
            self._known = {}
            new = set[str]().union(*words)
        self._remember(list(new))
        look_up = self._known.__getitem__
        found = [b"".join(map(look_up, parts)) for parts in words]
        self._forget(new)
        return found

    def _remember(self, words: list[str]) -> None:
        """Encode words many at a time: to the library each is a text of its own, but the results come together."""
        groups = [words[start : start + ENCODED_TOGETHER] for start in range(0, len(words), ENCODED_TOGETHER)]
        encodings = self._backend.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            content = np.array(encoding.ids, self._dtype).tobytes()
            words_of_ids = np.array(encoding.word_ids, np.int64)  # ascends; a word may have no id
            ends = np.searchsorted(words_of_ids, np.arange(len(group)), side="right") * self._dtype.itemsize
            cuts = [0, *ends.tolist()]
            self._known.update(zip(group, map(content.__getitem__, map(slice, cuts, cuts[1:])), strict=True))

    def _forget(self, new: set[str]) -> None:
        """Forget long words, and all of them if they are too many: memory does not grow with the texts."""
        if len(self._known) > self._most:
            self._known = {}
            return
        for word in new:
            if len(word) > LONGEST_REMEMBERED:
                del self._known[word]


def divides_at_spaces(backend: tokenizers.Tokenizer) -> bool:
    """Whether it is certain that the backend encodes what stands between two spaces independently of the rest.

    That is so where the normalizer changes nothing across a space, the pre-tokenizer divides at every one, the model draws
    nothing at random, and no added token may contain one: etude's own BPE, Unigram and WordPiece, and BERT's tokenizers.
    """
    described = json.loads(backend.to_str())
    if described["model"].get("dropout") or not all(token["special"] for token in described["added_tokens"]):
        return False
    steps = (_described(backend.normalizer), _described(backend.pre_tokenizer))
    own = [tuple(map(_described, keeping_spaces(lowercase))) for lowercase in (False, True)]
    bert = steps[1] == _described(BertPreTokenizer()) and (steps[0] or {}).get("type") == "BertNormalizer"
    return bert or steps in own


def _described(step: Any) -> dict[str, Any] | None:
    """Return a normalizer or a pre-tokenizer as plain values."""
    if step is None:
        return None
    described: dict[str, Any] = json.loads(step.__getstate__())
    return described
