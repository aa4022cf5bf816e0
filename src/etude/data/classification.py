"""Texts with a class each.

Axes: N examples.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from etude.data.class_weights import ClassWeights
from etude.data.labelled_texts import LabelledData, LabelledTexts
from etude.data.labels import ClassLabels, Labels
from etude.data.prepare import Corpus, Split


class ClassificationData(LabelledData):
    """Texts, or pairs of texts, with a class each, from a corpus with the fields `text`, `label` and perhaps `pair`.

    Args:
        corpus: Where the rows come from.
        max_length: Most tokens of an example, special tokens included; longer texts are cut and counted.
        pair: What the second text of a pair is read from; None: there are no pairs.
        weights: How much each class counts in training; None: every example counts one.
        given: As in `PlannedData`.
    """

    BATCH: ClassVar[str] = "ClassificationBatch"
    LABELS: ClassVar[type[Labels]] = ClassLabels
    LABEL_TYPE: ClassVar[npt.DTypeLike] = np.int64

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        pair: str | None = None,
        weights: ClassWeights | None = None,
        **given: Any,
    ) -> None:
        super().__init__(corpus, max_length, pair, **given)
        self.weights = weights

    def examples(self, split: Split, rows: int, *, training: bool) -> LabelledTexts:
        """Return the first `rows` texts of a split, weighted in training."""
        labels = self.stored(split, rows)
        if not training:
            return LabelledTexts(split, labels, self.facts)
        counts = np.bincount(labels, minlength=len(self.prepared.classes))
        self._say_missing(counts > 0)
        weights = None if self.weights is None else self.weights.of(counts, self.prepared.classes)[labels]
        return LabelledTexts(split, labels, self.facts, weights=weights)
