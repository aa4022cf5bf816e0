"""Scores of the tags of words, and of the spans that tags write, over all sentences of a split.

Rows are sentences: intervals and paired tests draw whole sentences, since the words of one are not independent.

Axes: N sentences, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from etude.metrics.score import Statistics, Summed
from etude.metrics.tag_schemes import SCHEMES, SchemeName

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
    return Summed(table, score, alone, signature, (0, 1))


def _share(counts: Float64[np.ndarray, " 2"]) -> float:
    return float(counts[0] / counts[1]) if counts[1] else 0.0


def _macro_f1(counts: Float64[np.ndarray, " 3*C"]) -> float:
    right, made, wanted = np.reshape(counts, (3, -1))
    occurs = made + wanted > 0
    return float((2 * right[occurs] / (made + wanted)[occurs]).mean()) if occurs.any() else 0.0


def _signature(classes: Sequence[str], *settings: str) -> str:
    return "|".join(["nrefs:1", f"classes:{len(classes)}", *settings])
