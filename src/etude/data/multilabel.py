"""Texts with any number of classes each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from etude.data.labelled_texts import LabelledData, LabelledTexts
from etude.data.prepare import Split
from etude.data.readers.labels import Labels, SeveralLabels
from etude.types import MultilabelBatch


class MultilabelData(LabelledData):
    """Texts, or pairs, with any number of classes each: the corpus' field `label` is a JSON list of names."""

    BATCH: ClassVar[str] = "MultilabelBatch"
    LABELS: ClassVar[type[Labels]] = SeveralLabels
    LABEL_TYPE: ClassVar[npt.DTypeLike] = np.float32

    def examples(self, split: Split, *, training: bool) -> LabelledTexts:
        """Return the texts of a split."""
        labels = self.labels(split)
        if training:
            self._warn_of_missing_classes(np.asarray(labels.any(axis=0)))
        return LabelledTexts(split, labels, self.facts, MultilabelBatch)
