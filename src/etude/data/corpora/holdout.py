"""Which rows are held out: decided by what a row says, so that it never depends on order, and repeats stay together."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping

DECIDING = 200
"""Letters and digits of a text that decide its split: a whole sentence, or the start of a document."""

NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Return the text's letters and digits, case-folded; the text itself where it has none.

    Texts that differ in case, punctuation or spacing only are equal then, and must not be divided between splits.
    """
    return _letters(text) or text.strip()


def _letters(text: str) -> str:
    return NEITHER_LETTER_NOR_DIGIT.sub("", unicodedata.normalize("NFKC", text).casefold())


def split_of(text: str, shares: Mapping[str, float]) -> str:
    """Return the split of a text: a pure function of its start, normalised.

    Args:
        text: What decides, such as the source sentence.
        shares: Split -> its share of all texts; what remains of 1 is `train`.
    """
    place = int.from_bytes(hashlib.sha256(_deciding(text).encode("utf-8", "replace")).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"


def _deciding(text: str) -> str:
    """Return the first letters and digits of a normalised text, without normalising all of a long one."""
    size = 2 * DECIDING
    while size < len(text) and len(_letters(text[:size])) <= DECIDING:
        size *= 2
    return normalised(text[:size])[:DECIDING]


def digest(*parts: object) -> str:
    """Return the sha256 of parts, written one a line: the fingerprint of content and of the settings that choose it."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
