"""Pairs of texts for sequence-to-sequence tasks: sentences and translations, documents and summaries.

Axes: N examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from etude.data.base import PlannedData
from etude.data.loader import Slice, framed, pad, real
from etude.data.plan import Counts
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.sizes import BatchSize, Limit
from etude.data.subword_regularization import SampledTokens, Sampling, Tokens
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.types import IGNORED, Facts, TranslationBatch


class SentencePairs:
    """The pairs of a split as batches.

    Attributes:
        lengths: [N, 2] tokens that the encoder reads and the decoder predicts, eos included, in the plain segmentation.
        counts: [N] target tokens, eos included, in the plain segmentation.

    Args:
        split: The tokenized split.
        rows: How many of its pairs.
        facts: The special ids.
        sampled: Field -> ids of an example in an epoch, for the fields whose segmentation is drawn.
    """

    def __init__(self, split: Split, rows: int, facts: Facts, sampled: Mapping[str, Tokens] | None = None) -> None:
        source, target = split.tokens["source"], split.tokens["target"]
        self.lengths = np.stack([source.lengths[:rows], target.lengths[:rows]], axis=1) + 1
        self.counts = self.lengths[:, 1]
        self._plain = {"source": source, "target": target}
        self._sampled = sampled or {}
        self._facts = facts

    def _tokens(self, field: str, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        sampled = self._sampled.get(field)
        return sampled(example, epoch) if sampled else self._plain[field][example]

    def counts_in(self, epoch: int) -> Int[np.ndarray, " N"] | Counts:
        """Return the target tokens of each pair in an epoch, eos included; a function, if they are drawn."""
        sampled = self._sampled.get("target")
        if sampled is None:
            return self.counts
        return lambda examples: np.array([len(sampled(int(i), epoch)) + 1 for i in examples])

    def batch(self, part: Slice) -> TranslationBatch:
        """Return the padded batch of a slice."""
        facts = self._facts
        source = [framed(self._tokens("source", i, part.epoch), None, facts.eos) for i in part.examples]
        target = [self._tokens("target", i, part.epoch) for i in part.examples]
        inputs = [framed(ids, facts.bos, None) for ids in target]
        labels = pad([framed(ids, None, facts.eos) for ids in target], IGNORED)
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
    """Pairs of texts from a corpus with the fields `source` and `target`, in one vocabulary or in two.

    Too long texts of val and test are cut and counted, since a score is over every row.

    Args:
        corpus: Where the rows come from; a `ReferencedCorpus` gives several wanted outputs for each.
        max_length: Longest text in tokens, special tokens included.
        overflow: Whether a training pair with a longer text is dropped, as in translation, where a cut source no longer
            says what its target does, or its texts truncated, as in summarization. It is counted in any case.
        sampling: How segmentations are drawn in training; None: every text is written in one way.
        tokenizer: How a tokenizer is made, or the one of an earlier run.
        seed: The run's seed.
        batch: The size of a global batch.
        limit: How much of each split is used.
        cache: Folder of prepared data.
        micro_batches: Slices of each step on each process.
        workers: Processes that make batches.
    """

    BATCH: ClassVar[str] = "TranslationBatch"

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        overflow: Literal["drop", "truncate"] = "drop",
        sampling: Sampling | None = None,
        *,
        tokenizer: TokenizerRecipe | Tokenizer,
        seed: int,
        batch: BatchSize,
        limit: Limit,
        cache: Path,
        micro_batches: int = 1,
        workers: int = 0,
    ) -> None:
        super().__init__(
            corpus,
            max_length,
            tokenizer=tokenizer,
            seed=seed,
            batch=batch,
            limit=limit,
            cache=cache,
            micro_batches=micro_batches,
            workers=workers,
        )
        self.overflow = overflow
        self._more_references = isinstance(corpus, ReferencedCorpus)
        self.sampling = sampling

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
        """Return the first `rows` pairs of a split; in training, in segmentations that are drawn if there is a sampling."""
        return SentencePairs(split, rows, self.facts, self._sampled(split) if training else None)

    def _sampled(self, split: Split) -> dict[str, Tokens]:
        segmenters = self.sampling.segmenters(self.tokenizer) if self.sampling else {}
        longest = self.max_length - 1  # room for eos
        return {
            field: SampledTokens(
                split.tokens[field],
                split.texts[field],
                self.tokenizer.of(field),
                segmenter,
                (self.seed, field),
                longest,
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
