"""Texts with one number each."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from etude.data.labelled_texts import LabelledData, LabelledTexts
from etude.data.prepare import Split
from etude.data.readers.labels import Labels, Numbers
from etude.errors import DataError
from etude.types import Facts, RegressionBatch


class RegressionData(LabelledData):
    """Texts, or pairs, with one number each: the corpus' field `label`, written with a decimal point."""

    BATCH: ClassVar[str] = "RegressionBatch"
    LABELS: ClassVar[type[Labels]] = Numbers
    LABEL_TYPE: ClassVar[npt.DTypeLike] = np.float32

    def examples(self, split: Split, *, training: bool) -> LabelledTexts:
        """Return the texts of a split."""
        return LabelledTexts(split, self.labels(split), self.facts, RegressionBatch)

    @property
    def facts(self) -> Facts:
        """The vocabulary, the special ids, and mean and standard deviation of the training split's numbers.

        Raises:
            DataError: If all those numbers are the same.
        """
        numbers = self._split("train").labels
        if numbers is None or numbers.min() == numbers.max():
            raise DataError("all labels of the train split are the same number: there is nothing to learn")
        return replace(super().facts, center=float(numbers.mean()), scale=float(numbers.std()))
