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
    place = _place(text)
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"


def held_out_groups(sizes: Mapping[str, int], share: float) -> set[str]:
    """Return groups of rows that are held out whole, in the order of their names' hashes as far as they fit.

    Args:
        sizes: The name of each group, and how many rows it has.
        share: What they may be together of all rows; above 0, one group is held out however large it is.
    """
    most, found = share * sum(sizes.values()), set[str]()
    for name in sorted(sizes, key=_place) if share else ():
        if not found or sizes[name] <= most:
            found.add(name)
            most -= sizes[name]
    return found


def _place(text: str) -> float:
    """Return where in [0, 1) a text stands: of many texts, anywhere alike."""
    return int.from_bytes(hashlib.sha256(_deciding(text).encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def _deciding(text: str) -> str:
    """Return the first letters and digits of a normalised text, without normalising all of a long one."""
    size = 2 * DECIDING
    while size < len(text) and len(_letters(text[:size])) <= DECIDING:
        size *= 2
    return normalised(text[:size])[:DECIDING]


def digest(*parts: object) -> str:
    """Return the sha256 of parts, written one a line: the fingerprint of content and of the settings that choose it."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
