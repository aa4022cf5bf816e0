"""Schemes that write spans of words, such as named entities, as one tag for each word.

`B-x` begins a span of kind `x`, `I-x` goes on with it, and `O` is outside of all spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from etude.errors import ConfigurationError

OUTSIDE = "O"
"""Tag of a word that is in no span."""

SchemeName = Literal["iob2", "iobes"]


class Span(NamedTuple):
    """Words of a sentence that belong together.

    Attributes:
        start: First word, counted from 0.
        end: One past its last word.
        kind: What it is.
    """

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class TagScheme:
    """A scheme of tags.

    Attributes:
        name: Its name in configurations.
        letters: What a tag may begin with, besides `OUTSIDE`.
        first: Letters of the first word of a span.
        going_on: Letters after which a span goes on.
        inner: Letters of the words after the first.
        last: Letters of the last word.
    """

    name: str
    letters: str
    first: str
    going_on: str
    inner: str
    last: str

    def check(self, tags: Iterable[str]) -> None:
        """Check that all tags are of this scheme.

        Raises:
            ConfigurationError: If one of them is not.
        """
        for tag in tags:
            letter, kind = _divided(tag)
            if tag != OUTSIDE and (letter not in self.letters or not kind):
                forms = ", ".join([OUTSIDE, *(f"{letter}-…" for letter in self.letters)])
                raise ConfigurationError(
                    f"the tag {tag!r} is none of {self.name}, whose tags are {forms}; write data.scheme=null for tags "
                    "without spans, or the scheme of the data"
                )

    def spans(self, tags: Sequence[str]) -> list[Span]:
        """Return the spans that are written as the scheme says, and no others: those of seqeval's strict mode."""
        spans, start = list[Span](), 0
        while start < len(tags):
            letter, kind = _divided(tags[start])
            end = start + 1
            if letter in self.first:
                while end < len(tags) and self._goes_on(tags[end - 1], tags[end]):
                    end += 1
                if _divided(tags[end - 1])[0] in self.last:
                    spans.append(Span(start, end, kind))
            start = end
        return spans

    def _goes_on(self, before: str, tag: str) -> bool:
        (old, old_kind), (letter, kind) = _divided(before), _divided(tag)
        return old in self.going_on and letter in self.inner and old_kind == kind

    def repaired(self, tags: Sequence[str]) -> list[str]:
        """Return the tags of `lenient_spans`, written as the scheme says; tags that were so already are unchanged."""
        written = [OUTSIDE] * len(tags)
        for start, end, kind in lenient_spans(tags):
            for place in range(start, end):
                written[place] = f"{self._letter(place - start, end - start)}-{kind}"
        return written

    def _letter(self, place: int, size: int) -> str:
        """Return the letter of a word of a span, given its place in the span and the number of the span's words."""
        if size == 1:
            return self.first[-1]
        return self.first[0] if place == 0 else self.inner[-1] if place == size - 1 else self.inner[0]

    def broken(self, tags: Sequence[str]) -> int | None:
        """Return the first word whose tag is not as the scheme says; None: all are."""
        pairs = enumerate(zip(tags, self.repaired(tags), strict=True))
        return next((place for place, (tag, written) in pairs if tag != written), None)


IOB2 = TagScheme("iob2", letters="BI", first="B", going_on="BI", inner="I", last="BI")
"""`B-x` at the first word of a span, `I-x` at the others (Tjong Kim Sang and Veenstra 1999)."""

IOBES = TagScheme("iobes", letters="BIES", first="BS", going_on="BI", inner="IE", last="ES")
"""The same with `E-x` at the last word, and `S-x` at the word of a span of one."""

SCHEMES: dict[SchemeName, TagScheme] = {"iob2": IOB2, "iobes": IOBES}


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans of tags that need not follow any scheme: those of seqeval's lenient mode, which is conlleval's.

    A span begins where the scheme says, and also after `O`, after a last word, and where the kind changes.
    """
    spans, start = list[Span](), 0
    for place in range(1, len(tags) + 1):
        ended = place == len(tags) or tags[place] == OUTSIDE or _begins(tags[place - 1], tags[place])
        if ended and tags[place - 1] != OUTSIDE:
            spans.append(Span(start, place, _divided(tags[place - 1])[1]))
        if ended:
            start = place
    return spans


def _begins(before: str, tag: str) -> bool:
    (old, old_kind), (letter, kind) = _divided(before), _divided(tag)
    return before == OUTSIDE or letter in ("B", "S") or old in ("E", "S") or old_kind != kind


def _divided(tag: str) -> tuple[str, str]:
    """Return letter and kind of a tag; of `OUTSIDE` and of tags of no scheme, a letter that no scheme has."""
    letter, dash, kind = tag.partition("-")
    return (letter, kind) if dash and len(letter) == 1 else ("-", tag)
