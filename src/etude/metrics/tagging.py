"""Tags of words, the spans that they write, and the scores of both over all sentences of a split.

`B-x` begins a span of kind `x`, such as a named entity, `I-x` goes on with it, and `O` is outside of all spans. Rows are
sentences: intervals and paired tests draw whole sentences, since the words of one are not independent.

Axes: N sentences, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from etude.errors import ConfigurationError
from etude.metrics.score import Statistics, Summed

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


Tags = Sequence[str]
"""A tag for each word of a sentence."""


class TagMetric(ABC):
    """A metric of predicted tags, as named under `task.metrics` of a token classification.

    Attributes:
        PARTS: As in `etude.metrics.text_metrics.TextMetric`.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def check(self, classes: Sequence[str]) -> None:  # noqa: B027 (most metrics fit any tags)
        """Check the metric's settings against all tags of the data.

        Raises:
            ConfigurationError: If they do not fit.
        """

    @abstractmethod
    def statistics(self, outputs: Sequence[Tags], labels: Sequence[Tags], classes: Sequence[str]) -> Statistics:
        """Return the statistics that the score of all sentences is computed from.

        Args:
            outputs: Predicted tags of each sentence.
            labels: Right tags of each sentence.
            classes: All tags, by id.
        """


class TagAccuracy(TagMetric):
    """The share of words whose tag was predicted, from 0 to 1."""

    def statistics(self, outputs: Sequence[Tags], labels: Sequence[Tags], classes: Sequence[str]) -> Statistics:
        """Return the number of right words, and of words, of each sentence."""
        rows = [
            (sum(map(str.__eq__, output, right)), len(right)) for output, right in zip(outputs, labels, strict=True)
        ]
        return _summed(rows, 2, _share, f"nrefs:1|classes:{len(classes)}")


class TagF1(TagMetric):
    """The mean over tags of the harmonic mean of precision and recall, from 0 to 1; of tags that occur or are predicted."""

    def statistics(self, outputs: Sequence[Tags], labels: Sequence[Tags], classes: Sequence[str]) -> Statistics:
        """Return for each sentence and tag the number of words that are right, predicted and labelled so."""
        ids = {name: number for number, name in enumerate(classes)}
        rows = np.zeros((len(labels), 3, len(classes)), np.int64)
        for counts, output, right in zip(rows, outputs, labels, strict=True):
            for made, wanted in zip(output, right, strict=True):
                counts[0, ids[wanted]] += made == wanted
                counts[1, ids[made]] += 1
                counts[2, ids[wanted]] += 1
        return _summed(rows.reshape(len(labels), -1), 3 * len(classes), _macro_f1, _signature(classes, "average:macro"))


class _SpanMetric(TagMetric):
    """A score of whole spans: one is right if its first word, its last word and its kind are.

    They are those of seqeval's strict mode, over all spans at once. A predicted span that is not written as the scheme says
    is no span.

    Args:
        scheme: Scheme of the tags.
        kind: Kind of the spans that count; None: all.
    """

    SCORE: ClassVar[Callable[[Float64[np.ndarray, " 3"]], float]]

    def __init__(self, scheme: SchemeName, kind: str | None = None) -> None:
        self.scheme = SCHEMES[scheme]
        self.kind = kind

    def check(self, classes: Sequence[str]) -> None:
        """Check that all tags are of the scheme.

        Raises:
            ConfigurationError: If one of them is not.
        """
        self.scheme.check(classes)

    def statistics(self, outputs: Sequence[Tags], labels: Sequence[Tags], classes: Sequence[str]) -> Statistics:
        """Return the numbers of right, predicted and labelled spans of each sentence."""
        rows = list(self._counts(outputs, labels))
        kind = "average:micro" if self.kind is None else f"kind:{self.kind}"
        settings = (f"scheme:{self.scheme.name}", "mode:strict", kind)
        return _summed(rows, 3, type(self).SCORE, _signature(classes, *settings))

    def _counts(self, outputs: Sequence[Tags], labels: Sequence[Tags]) -> Iterator[tuple[int, int, int]]:
        for output, right in zip(outputs, labels, strict=True):
            made, wanted = (
                {span for span in self.scheme.spans(tags) if self.kind in (None, span.kind)} for tags in (output, right)
            )
            yield len(made & wanted), len(made), len(wanted)


def _ratio(above: int, counts: Float64[np.ndarray, " 3"], below: Sequence[int]) -> float:
    total = float(sum(counts[place] for place in below))
    return float(counts[above]) * len(below) / total if total else 0.0


class SpanPrecision(_SpanMetric):
    """The share of predicted spans that are right, from 0 to 1; 0 if none is predicted."""

    SCORE = staticmethod(partial(_ratio, 0, below=(1,)))


class SpanRecall(_SpanMetric):
    """The share of labelled spans that are predicted, from 0 to 1; 0 if there are none."""

    SCORE = staticmethod(partial(_ratio, 0, below=(2,)))


class SpanF1(_SpanMetric):
    """The harmonic mean of the precision and the recall of spans, from 0 to 1; 0 if both are."""

    SCORE = staticmethod(partial(_ratio, 0, below=(1, 2)))


def _summed(
    rows: Sequence[Sequence[int]] | np.ndarray, width: int, score: Callable[[np.ndarray], float], signature: str
) -> Summed:
    """Return statistics whose sentences have a score of their own wherever they have words or spans."""
    table = np.asarray(rows, np.int64).reshape(-1, width)
    alone = np.array([score(row.astype(np.float64)) if row.any() else np.nan for row in table], np.float64)
    return Summed(table, alone, signature, (0, 1), score=score)


def _share(counts: Float64[np.ndarray, " 2"]) -> float:
    return float(counts[0] / counts[1]) if counts[1] else 0.0


def _macro_f1(counts: Float64[np.ndarray, " 3*C"]) -> float:
    right, made, wanted = np.reshape(counts, (3, -1))
    occurs = made + wanted > 0
    return float((2 * right[occurs] / (made + wanted)[occurs]).mean()) if occurs.any() else 0.0


def _signature(classes: Sequence[str], *settings: str) -> str:
    return "|".join(["nrefs:1", f"classes:{len(classes)}", *settings])
