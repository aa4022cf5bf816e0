"""Texts for masked language models: windows of documents, masked by a pure function.

A window never crosses from one document into another, so neither does attention, and the plan batches windows of similar
length, so hardly any position is padding.

Axes: N examples, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from etude.data.base import DataSettings, PlannedData
from etude.data.loader import MixableExamples, Slice, framed, pad, token_mask
from etude.data.masking import Masker, Masking
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.errors import ConfigurationError
from etude.types import IGNORED, Facts, MaskedLMBatch

COUNTED_AT_ONCE = 1_000_000
"""Ids whose frequencies are counted in one piece: together they may be more than fit into memory."""


class MaskedTexts(MixableExamples):
    """The windows of a split as batches with masked tokens.

    Attributes:
        lengths: [N] tokens, bos and eos included.
        counts: [N] tokens to predict.

    Args:
        split: The windows.
        facts: The special ids.
        masker: Chooses and replaces tokens.
        seed: Seed of the run.
        training: Whether a window is masked anew in each epoch; otherwise always alike, whatever the seed.
    """

    def __init__(self, split: Split, facts: Facts, masker: Masker, seed: int, *, training: bool) -> None:
        self._tokens = split.tokens["text"]
        self._facts = facts
        self._masker = masker
        self._seed = seed if training else 0  # a validation score does not depend on the run's seed
        self._training = training
        self.lengths = self._tokens.lengths + 2
        self.counts = masker.masking.counts(self._tokens.lengths)

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the ids that the model reads of each window, and those that it has to predict."""
        return [self._masked(int(example), epoch if self._training else 0) for example in examples]

    def collate(self, rows: Sequence[tuple[np.ndarray, np.ndarray]], part: Slice) -> MaskedLMBatch:
        """Return the padded batch of some windows."""
        inputs, labels = zip(*rows, strict=True)
        ids = torch.from_numpy(part.examples.astype(np.int64))
        targets = pad(labels, IGNORED)
        if part.filler:
            targets, ids = torch.full_like(targets, IGNORED), torch.full_like(ids, -1)
        return MaskedLMBatch(pad(inputs, self._facts.pad), token_mask(inputs), targets, part.denominator, ids)

    def _masked(self, example: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids that the model reads and those it has to predict, [n + 2] each."""
        ids = np.asarray(self._tokens[example], np.int64)
        inputs, labels = self._masker(ids, (self._seed, epoch, example))
        return framed(inputs, self._facts.bos, self._facts.eos), framed(labels, IGNORED, IGNORED)


class MaskedLMData(PlannedData):
    """Windows of documents from a corpus with the field `text`.

    Args:
        corpus: Source of the documents.
        max_length: Longest window in tokens, special tokens included.
        masking: How tokens are chosen and replaced.
        settings: As in `PlannedData`.
    """

    BATCH: ClassVar[str] = "MaskedLMBatch"

    def __init__(self, corpus: Corpus, max_length: int, masking: Masking, *, settings: DataSettings) -> None:
        super().__init__(corpus, max_length, settings=settings)
        self.masking = masking

    def read(self) -> Prepared:
        """Return the tokenized windows."""
        return prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("text",),
            max_length=self.max_length - 2,  # room for bos and eos
            overflow="window",
            cache=self.settings.cache,
        )

    def examples(self, split: Split, *, training: bool) -> MaskedTexts:
        """Return the windows of a split."""
        return MaskedTexts(split, self.facts, self.masker, self.settings.seed, training=training)

    @functools.cached_property
    def masker(self) -> Masker:
        """The masking, applied to ids of this tokenizer."""
        return Masker(self.masking, self.tokenizer)

    @property
    def facts(self) -> Facts:
        """The vocabulary and the special ids."""
        tokenizer = self.tokenizer
        if tokenizer.mask < 0:
            raise ConfigurationError("the tokenizer has no mask token: take tokenizer=wordpiece, bpe, unigram or bytes")
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)

    def describe(self) -> dict[str, Any]:
        """Add the loss of a model that knows only the tokens' frequencies, in nats per token."""
        return {**super().describe(), "unigram_loss": self.unigram_loss()}

    def unigram_loss(self) -> float | None:
        """Return the cross-entropy in nats of the validation tokens under the training tokens' frequencies.

        Frequencies are smoothed by adding one to each. None without a validation split.
        """
        if "val" not in self.prepared.splits:
            return None
        train, val = (self._frequencies(name) for name in ("train", "val"))
        probability = (train + 1) / (train + 1).sum()
        return float(-(val / val.sum() * np.log(probability)).sum())

    def _frequencies(self, split: str) -> Float[np.ndarray, " V"]:
        """Return the number of occurrences of each id in a split."""
        tokens, counts = self.prepared.splits[split].tokens["text"], np.zeros(self.facts.vocabulary)
        for piece in tokens.pieces(COUNTED_AT_ONCE):
            counts += np.bincount(piece, minlength=len(counts))
        return counts

    def bytes_per_token(self, split: str) -> float:
        """Return the mean length of a split's tokens, in bytes of UTF-8 of the texts as read."""
        rows = self._split("train" if self.settings.limit.overfit else split)
        return rows.texts["text"].content.values.size / rows.tokens["text"].values.size
