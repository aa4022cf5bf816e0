"""Texts for masked language models: windows of documents, with tokens hidden by a pure function.

A window never crosses from one document into another, so attention does not either, and the plan puts windows of like
length together, so hardly a position is padding.

Axes: N examples, V vocabulary.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from etude.data.base import PlannedData
from etude.data.loader import Slice, framed, pad, real
from etude.data.masking import Masker, Masking
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.sizes import BatchSize, Limit
from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.types import IGNORED, Facts, MaskedLMBatch

PART = 10_000_000
"""Ids that are counted at a time."""


class MaskedTexts:
    """The windows of a split as batches with hidden tokens.

    Attributes:
        lengths: [N] tokens, with the one that starts and the one that ends a window.
        counts: [N] tokens to predict.
    """

    def __init__(self, split: Split, rows: int, facts: Facts, masker: Masker, seed: int, *, training: bool) -> None:
        self._tokens = split.tokens["text"]
        self._facts = facts
        self._masker = masker
        self._seed = seed if training else 0  # a validation score does not depend on the run's seed
        self._training = training
        self.lengths = self._tokens.lengths[:rows] + 2
        self.counts = masker.masking.counts(self._tokens.lengths[:rows])

    def batch(self, part: Slice) -> MaskedLMBatch:
        """Return the padded batch of a slice. In evaluation an example is masked the same way every time."""
        epoch = part.epoch if self._training else 0
        inputs, labels = zip(*(self._hide(int(i), epoch) for i in part.examples), strict=True)
        ids = torch.from_numpy(part.examples.astype(np.int64))
        targets = pad(labels, IGNORED)
        if part.filler:
            targets, ids = torch.full_like(targets, IGNORED), torch.full_like(ids, -1)
        return MaskedLMBatch(pad(inputs, self._facts.pad), real(inputs), targets, part.denominator, ids)

    def _hide(self, example: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids that the model reads and those it shall predict, [n + 2] each."""
        ids = np.asarray(self._tokens[example], np.int64)
        seen, labels = self._masker(ids, (self._seed, epoch, example))
        return framed(seen, self._facts.bos, self._facts.eos), framed(labels, IGNORED, IGNORED)


class MaskedLMData(PlannedData):
    """Windows of documents from a corpus with the field `text`.

    Args:
        corpus: Where the documents come from.
        max_length: Longest window in tokens, special tokens included.
        masking: Which tokens are hidden, and how.
        tokenizer: How a tokenizer is made, or the one of an earlier run.
        seed: The run's seed.
        batch: The size of a global batch.
        limit: How much of each split is used.
        cache: Folder of prepared data.
        micro_batches: Slices of each step on each process.
        workers: Processes that make batches.
    """

    BATCH: ClassVar[str] = "MaskedLMBatch"

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        masking: Masking,
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
        self.masking = masking

    def read(self) -> Prepared:
        """Return the tokenized windows."""
        return prepare(
            self.corpus,
            self._recipe,
            text_fields=("text",),
            max_length=self.max_length - 2,  # room for bos and eos
            overflow="window",
            cache=self.cache,
        )

    def examples(self, split: Split, rows: int, *, training: bool) -> MaskedTexts:
        """Return the first `rows` windows of a split."""
        return MaskedTexts(split, rows, self.facts, self.masker, self.seed, training=training)

    @functools.cached_property
    def masker(self) -> Masker:
        """What hides tokens of this tokenizer."""
        return Masker(self.masking, self.tokenizer)

    @property
    def facts(self) -> Facts:
        """The vocabulary and the special ids."""
        tokenizer = self.tokenizer
        if tokenizer.mask < 0:
            raise ConfigurationError("the tokenizer has no mask token: take tokenizer=wordpiece, bpe, unigram or bytes")
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)

    def describe(self) -> dict[str, Any]:
        """Add what a model that knows only how often each token occurs would lose, in nats for each token."""
        return {**super().describe(), "unigram_loss": self.unigram_loss()}

    def unigram_loss(self) -> float | None:
        """Return the cross-entropy in nats of the validation tokens under the training tokens' frequencies.

        Frequencies are smoothed by one for each type. None without a validation split.
        """
        if "val" not in self.prepared.splits:
            return None
        train, val = (self._frequencies(name) for name in ("train", "val"))
        probability = (train + 1) / (train + 1).sum()
        return float(-(val / val.sum() * np.log(probability)).sum())

    def _frequencies(self, split: str) -> Float[np.ndarray, " V"]:
        """Count each id, part by part: they are as many as there is room for on the disk."""
        values, counts = self.prepared.splits[split].tokens["text"].values, np.zeros(self.facts.vocabulary)
        for start in range(0, len(values), PART):
            counts += np.bincount(values[start : start + PART], minlength=len(counts))
        return counts

    def bytes_per_token(self, split: str) -> float:
        """Return the bytes of the texts of a split, as read and in UTF-8, for each of their tokens."""
        read = self._split("train" if self.limit.overfit else split)
        return read.texts["text"].content.values.size / read.tokens["text"].values.size
