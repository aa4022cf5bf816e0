"""Texts with one class each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from etude.data.base import DataSettings
from etude.data.class_weights import ClassWeights
from etude.data.labelled_texts import LabelledData, LabelledTexts
from etude.data.prepare import Corpus, Split
from etude.data.readers.labels import ClassLabels, Labels


class ClassificationData(LabelledData):
    """Texts, or pairs, with one class each: the corpus' field `label` is its name.

    Args:
        corpus: Source of the rows.
        max_length: As in `LabelledData`.
        pair: As in `LabelledData`.
        weights: Weights of the classes in training; None: every example counts one.
        settings: As in `PlannedData`.
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
        *,
        settings: DataSettings,
    ) -> None:
        super().__init__(corpus, max_length, pair, settings=settings)
        self.weights = weights

    def examples(self, split: Split, *, training: bool) -> LabelledTexts:
        """Return the texts of a split, weighted in training."""
        labels = self.labels(split)
        if not training:
            return LabelledTexts(split, labels, self.facts)
        counts = np.bincount(labels, minlength=len(self.prepared.classes))
        self._warn_of_missing_classes(counts > 0)
        weights = None if self.weights is None else self.weights.of(counts, self.prepared.classes)[labels]
        return LabelledTexts(split, labels, self.facts, weights=weights)
