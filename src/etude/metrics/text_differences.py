"""Differences between two texts, word by word: what an output lacks of its reference, and what it has besides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

WORDS = 2_000
"""Words of a text up to which differences are marked: the time of a comparison grows with their square."""

TEXTS = {"output": "reference", "answer": "wanted", "guessed": "hidden"}
"""Columns of texts that a model has made, and those of what it should have made."""

Kind = Literal["same", "missing", "extra"]

# Scripts that write no spaces are compared by letter.
_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|\w+|\s+|[^\w\s]")


class Segment(NamedTuple):
    """A part of a text.

    Attributes:
        text: The part.
        kind: `same`, `missing` from the other text, or `extra`, which only the other one lacks.
    """

    text: str
    kind: Kind


def differences(reference: str, output: str) -> tuple[list[Segment], list[Segment]]:
    """Return two texts in parts: words of the reference that are missing, and words of the output that are extra.

    Joined, the parts are the texts. Texts of more than `WORDS` words are not compared.
    """
    found: tuple[list[Segment], list[Segment]] = ([], [])
    for left, right, equal in _pairs(reference, output):
        kinds: tuple[Kind, Kind] = ("same", "same") if equal else ("missing", "extra")
        for segments, part, kind in zip(found, (left, right), kinds, strict=True):
            if part:
                segments.append(Segment(part, kind))
    return found


def marked(reference: str, output: str) -> str:
    """Return both texts as one, in the notation of GNU wdiff: `the [-red-]{+blue+} house`.

    Of texts of more than `WORDS` words it is the output alone.
    """
    parts: list[str] = []
    for missing, extra, equal in _pairs(reference, output):
        if equal:
            parts.append(extra)
        else:
            parts += [f"[-{missing}-]"] * bool(missing) + [f"{{+{extra}+}}"] * bool(extra)
    return "".join(parts)


def whole(text: str) -> list[Segment]:
    """Return a text as one part, or none if it is empty."""
    return [Segment(text, "same")] if text else []


def _pairs(reference: str, output: str) -> Iterator[tuple[str, str, bool]]:
    """Yield the parts of both texts that stand in the same place, and whether they count as equal."""
    left, right = (_WORD.findall(text) for text in (reference, output))
    if max(len(left), len(right)) > WORDS:
        yield reference, output, True
        return
    for tag, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        yield "".join(left[a:b]), "".join(right[c:d]), tag == "equal"
