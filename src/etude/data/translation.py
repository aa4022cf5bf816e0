"""Pairs of texts for sequence-to-sequence tasks: sentences with translations, documents with summaries.

Axes: N examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from etude.data.base import DataSettings, PlannedData
from etude.data.loader import MixableExamples, Slice, framed, pad, token_mask
from etude.data.plan import Counts
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.subword_regularization import SampledTokens, Sampling, Tokens
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts, TranslationBatch


class SentencePairs(MixableExamples):
    """The pairs of a split as batches.

    Attributes:
        lengths: [N, 2] tokens that the encoder reads and the decoder predicts, eos included, in the plain segmentation.
        counts: [N] target tokens, eos included, in the plain segmentation.

    Args:
        split: The tokenized split.
        facts: The special ids.
        sampled: Field -> ids of an example in an epoch, for each field whose segmentation is sampled.
    """

    def __init__(self, split: Split, facts: Facts, sampled: Mapping[str, Tokens] | None = None) -> None:
        source, target = split.tokens["source"], split.tokens["target"]
        self.lengths = np.stack([source.lengths, target.lengths], axis=1) + 1
        self.counts = self.lengths[:, 1]
        self._plain = {"source": source, "target": target}
        self._sampled = sampled or {}
        self._facts = facts

    def _tokens(self, field: str, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        sampled = self._sampled.get(field)
        return sampled(example, epoch) if sampled else self._plain[field][example]

    def counts_in(self, epoch: int) -> Int[np.ndarray, " N"] | Counts:
        """Return the target tokens of each pair in an epoch, eos included; a function where they are sampled."""
        sampled = self._sampled.get("target")
        if sampled is None:
            return self.counts
        return lambda examples: np.array([len(sampled(int(i), epoch)) + 1 for i in examples])

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the ids of the source and the target of each pair."""
        return [(self._tokens("source", i, epoch), self._tokens("target", i, epoch)) for i in examples]

    def collate(self, rows: Sequence[tuple[np.ndarray, np.ndarray]], part: Slice) -> TranslationBatch:
        """Return the padded batch of some pairs."""
        facts = self._facts
        source = [framed(ids, None, facts.eos) for ids, _ in rows]
        target = [ids for _, ids in rows]
        inputs = [framed(ids, facts.bos, None) for ids in target]
        labels = pad([framed(ids, None, facts.eos) for ids in target], IGNORED)
        ids = torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        return TranslationBatch(
            source=pad(source, facts.pad),
            source_mask=token_mask(source),
            inputs=pad(inputs, facts.pad),
            labels=labels,
            target_mask=token_mask(inputs),
            step_count=part.denominator,
            ids=ids,
        )


@runtime_checkable
class ReferencedCorpus(Protocol):
    """A corpus whose rows also have the field `references`: a JSON list of texts, the first of them the `target`."""

    FIELDS_AS_TEXT: ClassVar[tuple[str, ...]]


class TranslationData(PlannedData):
    """Pairs of texts from a corpus with the fields `source` and `target`, in one vocabulary or in two.

    Longer texts of val and test are truncated and counted, since a score is over every row.

    Args:
        corpus: Source of the rows; a `ReferencedCorpus` has several references for each.
        max_length: Longest text in tokens, special tokens included.
        overflow: Whether a training pair with a longer text is dropped, as in translation, where a truncated source no
            longer means what its target does, or truncated, as in summarization. It is counted in either case.
        sampling: How segmentations are sampled in training; None: every text has one segmentation.
        settings: As in `PlannedData`.
    """

    BATCH: ClassVar[str] = "TranslationBatch"

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        overflow: Literal["drop", "truncate"] = "drop",
        sampling: Sampling | None = None,
        *,
        settings: DataSettings,
    ) -> None:
        super().__init__(corpus, max_length, settings=settings)
        self.overflow = overflow
        self.sampling = sampling
        self._has_references = isinstance(corpus, ReferencedCorpus)

    def read(self) -> Prepared:
        """Return the tokenized corpus."""
        return prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("source", "target"),
            max_length=self.max_length - 1,  # room for eos
            overflow=self.overflow,
            cache=self.settings.cache,
            fields_as_text=("references",) if self._has_references else (),
        )

    def references(self, split: str, example: int) -> list[str]:
        """Return the reference outputs of an example, as they were read; the first is its target."""
        if self._has_references:
            return list(json.loads(self.text(split, "references", example)))
        return [self.text(split, "target", example)]

    def examples(self, split: Split, *, training: bool) -> SentencePairs:
        """Return the pairs of a split; in training, in sampled segmentations if there is a sampling."""
        return SentencePairs(split, self.facts, self._sampled(split) if training else None)

    def _sampled(self, split: Split) -> dict[str, Tokens]:
        segmenters = self.sampling.segmenters(self.tokenizer) if self.sampling else {}
        return {
            field: SampledTokens(
                split.tokens[field],
                split.texts[field],
                self.tokenizer.of(field),
                segmenter,
                key=(self.settings.seed, field),
                max_length=self.max_length - 1,  # room for eos
            )
            for field, segmenter in segmenters.items()
        }

    def counts(self, epoch: int) -> Int[np.ndarray, " N"] | Counts:
        """Return the target tokens of each training pair in an epoch, eos included."""
        return cast(SentencePairs, self.splits["train"]).counts_in(epoch)

    @property
    def facts(self) -> Facts:
        """The vocabulary and the ids of pad, bos and eos."""
        return facts_of(self.tokenizer)


def facts_of(tokenizer: Tokenizer) -> Facts:
    """Return what a sequence-to-sequence model must know of a tokenizer."""
    source = tokenizer.of("source")
    separate = None if source is tokenizer else source.vocabulary
    return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, source_vocabulary=separate)
