"""Sentence pairs for sequence-to-sequence tasks.

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
from etude.tokenization.tokenizer import Tokenizer
from etude.types import IGNORED, Facts, TranslationBatch


class SentencePairs:
    """The pairs of a split as batches.

    Attributes:
        lengths: [N, 2] tokens that the encoder reads and the decoder predicts, eos included.
        counts: [N] target tokens, eos included.
    """

    def __init__(self, split: Split, rows: int, facts: Facts) -> None:
        self._source = split.tokens["source"]
        self._target = split.tokens["target"]
        self._facts = facts
        self.lengths = np.stack([self._source.lengths[:rows], self._target.lengths[:rows]], axis=1) + 1
        self.counts = self.lengths[:, 1]

    def batch(self, part: Slice) -> TranslationBatch:
        """Return the padded batch of a slice."""
        facts = self._facts
        source = [framed(self._source[i], None, facts.eos) for i in part.examples]
        inputs = [framed(self._target[i], facts.bos, None) for i in part.examples]
        labels = pad([framed(self._target[i], None, facts.eos) for i in part.examples], IGNORED)
        ids = torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        return TranslationBatch(
            pad(source, facts.pad), real(source), pad(inputs, facts.pad), labels, real(inputs), part.denominator, ids
        )


class TranslationData(PlannedData):
    """Sentence pairs from a corpus with the fields `source` and `target`, in one shared vocabulary.

    Pairs of the training split that are too long are dropped and counted; those of the others are cut and counted.
    """

    BATCH: ClassVar[str] = "TranslationBatch"

    def read(self) -> Prepared:
        """Return the tokenized corpus."""
        return prepare(
            self.corpus,
            self._recipe,
            text_fields=("source", "target"),
            max_length=self.max_length - 1,  # room for eos
            overflow="drop",
            cache=self.cache,
        )

    def examples(self, split: Split, rows: int, *, training: bool) -> SentencePairs:
        """Return the first `rows` pairs of a split."""
        return SentencePairs(split, rows, self.facts)

    @property
    def facts(self) -> Facts:
        """The vocabulary and the ids of pad, bos and eos."""
        return facts_of(self.tokenizer)


def facts_of(tokenizer: Tokenizer) -> Facts:
    """Return what a sequence-to-sequence model must know of a tokenizer."""
    return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
