"""Held-out rows, chosen by their text alone: the choice does not depend on order, and repeated texts stay together."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping

DECIDING = 200
"""Letters and digits at the start of a text that decide its split: a whole sentence, or the start of a document."""

NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Return the text's letters and digits, case-folded; if it has none, the text with single spaces.

    Texts that differ only in case, punctuation or spacing are then equal: they must not be divided between splits.
    """
    return _letters(text) or " ".join(text.split())


def _letters(text: str) -> str:
    return NEITHER_LETTER_NOR_DIGIT.sub("", unicodedata.normalize("NFKC", text).casefold())


def split_of(text: str, shares: Mapping[str, float]) -> str:
    """Return the split of a text: a pure function of its start, normalised.

    Args:
        text: Text that decides, such as the source sentence.
        shares: Split -> its share of all texts; the rest is `train`.
    """
    position = _position(text)
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return "train"


def held_out_groups(sizes: Mapping[str, int], share: float) -> set[str]:
    """Return the groups of rows that are held out whole: in the order of their names' hashes, as many as fit.

    Args:
        sizes: Name of each group -> its number of rows.
        share: Most rows of all groups together, as a share of all rows; above 0, one group is held out whatever its size.
    """
    room, held_out = share * sum(sizes.values()), set[str]()
    for name in sorted(sizes, key=_position) if share else ():
        if not held_out or sizes[name] <= room:
            held_out.add(name)
            room -= sizes[name]
    return held_out


def _position(text: str) -> float:
    """Return a pseudo-random position in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(_deciding(text).encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def _deciding(text: str) -> str:
    """Return the first letters and digits of a normalised text, without normalising all of a long one."""
    size = 2 * DECIDING
    while size < len(text) and len(_letters(text[:size])) <= DECIDING:
        size *= 2
    return normalised(text[:size])[:DECIDING]


def digest(*parts: object) -> str:
    """Return the sha256 of parts, one per line: the fingerprint of content and of the settings that select from it."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
