"""Pairs of texts for sequence-to-sequence tasks: sentences and translations, documents and summaries.

Axes: N examples.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from etude.data.collate import framed, pad, real
from etude.data.loader import Slice
from etude.data.module import PlannedData
from etude.data.prepare import Corpus, Prepared, Split, prepare
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


@runtime_checkable
class ReferencedCorpus(Protocol):
    """A corpus whose rows have, besides `source` and `target`, the field `references`: a list of texts in JSON."""

    FIELDS_AS_TEXT: ClassVar[tuple[str, ...]]


class TranslationData(PlannedData):
    """Pairs of texts from a corpus with the fields `source` and `target`, in one shared vocabulary.

    Too long texts of val and test are cut and counted, since a score is over every row.

    Args:
        corpus: Where the rows come from; a `ReferencedCorpus` gives several wanted outputs for each.
        max_length: Longest text in tokens, special tokens included.
        overflow: Whether a training pair with a longer text is dropped, as in translation, where a cut source no longer
            says what its target does, or its texts truncated, as in summarization. It is counted in any case.
        **shared: What every `PlannedData` takes.
    """

    BATCH: ClassVar[str] = "TranslationBatch"

    def __init__(
        self, corpus: Corpus, max_length: int, overflow: Literal["drop", "truncate"] = "drop", **shared: Any
    ) -> None:
        super().__init__(corpus, max_length, **shared)
        self.overflow = overflow
        self._more_references = isinstance(corpus, ReferencedCorpus)

    def read(self) -> Prepared:
        """Return the tokenized corpus."""
        return prepare(
            self.corpus,
            self._recipe,
            text_fields=("source", "target"),
            max_length=self.max_length - 1,  # room for eos
            overflow=self.overflow,
            cache=self.cache,
            fields_as_text=("references",) if self._more_references else (),
        )

    def references(self, split: str, example: int) -> list[str]:
        """Return the wanted outputs of an example, as they were read; the first is its target."""
        if self._more_references:
            return list(json.loads(self.text(split, "references", example)))
        return [self.text(split, "target", example)]

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
