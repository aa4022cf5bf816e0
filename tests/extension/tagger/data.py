"""Words with a tag each."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from etude.data.base import PlannedData
from etude.data.loader import Slice, framed, pad, token_mask
from etude.data.prepare import Prepared, Split, prepare
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts


class TaggingBatch(NamedTuple):
    """Texts with a tag at the first token of each word."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor
    step_count: float
    ids: Tensor


class TaggedTexts:
    """The texts of a split as batches; the loss is taken once for each word."""

    def __init__(self, split: Split, facts: Facts, tokenizer: Tokenizer) -> None:
        self._words = [text.split() for text in split.texts["text"]]
        self._tags = [text.split() for text in split.texts["tags"]]
        self._facts = facts
        self._tokenizer = tokenizer
        self.lengths = split.tokens["text"].lengths + 2
        self.counts = np.array([len(words) for words in self._words])

    def _row(self, example: int) -> tuple[np.ndarray, np.ndarray]:
        pieces = self._tokenizer.encode(self._words[example])
        tags = [self._facts.classes.index(tag) for tag in self._tags[example]]
        labels = [[tag] + [IGNORED] * (len(piece) - 1) for tag, piece in zip(tags, pieces, strict=True)]
        ids = np.array([i for piece in pieces for i in piece])
        return framed(ids, self._facts.bos, self._facts.eos), framed(np.concatenate(labels), IGNORED, IGNORED)

    def batch(self, part: Slice) -> TaggingBatch:
        tokens, labels = zip(*(self._row(int(i)) for i in part.examples), strict=True)
        targets, ids = pad(labels, IGNORED), torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            targets, ids = torch.full_like(targets, IGNORED), torch.full_like(ids, -1)
        return TaggingBatch(pad(tokens, self._facts.pad), token_mask(tokens), targets, part.denominator, ids)


class TaggingData(PlannedData):
    """Texts from a corpus with the fields `text` and `tags`, both with a word for a word."""

    BATCH: ClassVar[str] = "TaggingBatch"

    def read(self) -> Prepared:
        return prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("text", "tags"),
            max_length=self.max_length - 2,
            overflow="drop",
            cache=self.settings.cache,
        )

    def examples(self, split: Split, *, training: bool) -> TaggedTexts:
        return TaggedTexts(split, self.facts, self.tokenizer)

    @property
    def facts(self) -> Facts:
        texts = self.prepared.splits["train"].texts["tags"]
        tags = sorted({tag for row in range(len(texts)) for tag in texts[row].split()})
        tokenizer = self.tokenizer
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, classes=tuple(tags))
