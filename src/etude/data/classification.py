"""Labelled texts.

Axes: N examples.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from etude.data.collate import framed, pad, real
from etude.data.loader import Slice
from etude.data.module import PlannedData
from etude.data.prepare import Prepared, Split, prepare
from etude.errors import DataError
from etude.types import IGNORED, ClassificationBatch, Facts


class LabelledTexts:
    """The texts of a split as batches.

    Attributes:
        lengths: [N] tokens, with the one that starts and the one that ends a text.
        counts: [N] ones: a loss is taken at each text.
    """

    def __init__(self, split: Split, rows: int, facts: Facts) -> None:
        if split.labels is None:
            raise DataError("the corpus has no column 'label'")
        self._tokens = split.tokens["text"]
        self._labels = split.labels
        self._facts = facts
        self.lengths = self._tokens.lengths[:rows] + 2
        self.counts = np.ones(rows, np.int64)

    def batch(self, part: Slice) -> ClassificationBatch:
        """Return the padded batch of a slice."""
        rows = [framed(self._tokens[i], self._facts.bos, self._facts.eos) for i in part.examples]
        labels = torch.from_numpy(np.asarray(self._labels[part.examples], np.int64))
        ids = torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        return ClassificationBatch(pad(rows, self._facts.pad), real(rows), labels, part.denominator, ids)


class ClassificationData(PlannedData):
    """Texts with a class each, from a corpus with the fields `text` and `label`; longer texts are cut and counted."""

    BATCH: ClassVar[str] = "ClassificationBatch"

    def read(self) -> Prepared:
        """Return the tokenized corpus with its labels."""
        return prepare(
            self.corpus,
            self._recipe,
            text_fields=("text",),
            label_field="label",
            max_length=self.max_length - 2,  # room for bos and eos
            overflow="truncate",
            cache=self.cache,
        )

    def examples(self, split: Split, rows: int, *, training: bool) -> LabelledTexts:
        """Return the first `rows` texts of a split."""
        return LabelledTexts(split, rows, self.facts)

    @property
    def facts(self) -> Facts:
        """The vocabulary, the special ids and the classes."""
        tokenizer = self.tokenizer
        return Facts(
            tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask, self.prepared.classes
        )
