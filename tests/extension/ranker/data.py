"""Pairs of texts, of which the first is better."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from etude.data.base import PlannedData
from etude.data.cache import Ragged
from etude.data.loader import Slice, framed, pad, token_mask
from etude.data.prepare import Prepared, Split, prepare
from etude.types import Facts


class RankingBatch(NamedTuple):
    """Better and worse texts, row for row; those of a filler count for nothing."""

    better: Tensor
    better_mask: Tensor
    worse: Tensor
    worse_mask: Tensor
    counted: Tensor
    step_count: float
    ids: Tensor


class RankedPairs:
    """The pairs of a split as batches."""

    def __init__(self, split: Split, facts: Facts) -> None:
        self._sides = (split.tokens["better"], split.tokens["worse"])
        self._facts = facts
        self.lengths = np.stack([side.lengths + 2 for side in self._sides], axis=1)
        self.counts = np.ones(len(split), np.int64)

    def batch(self, part: Slice) -> RankingBatch:
        (better, better_mask), (worse, worse_mask) = (self._grid(side, part) for side in self._sides)
        ids = torch.from_numpy(part.examples.astype(np.int64))
        counted = torch.full(ids.shape, not part.filler)
        ids = torch.full_like(ids, -1) if part.filler else ids
        return RankingBatch(better, better_mask, worse, worse_mask, counted, part.denominator, ids)

    def _grid(self, side: Ragged, part: Slice) -> tuple[Tensor, Tensor]:
        rows = [framed(side[int(example)], self._facts.bos, self._facts.eos) for example in part.examples]
        return pad(rows, self._facts.pad), token_mask(rows)


class RankingData(PlannedData):
    """Pairs from a corpus with the fields `better` and `worse`."""

    BATCH: ClassVar[str] = "RankingBatch"

    def read(self) -> Prepared:
        return prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("better", "worse"),
            max_length=self.max_length - 2,
            overflow="drop",
            cache=self.settings.cache,
        )

    def examples(self, split: Split, *, training: bool) -> RankedPairs:
        return RankedPairs(split, self.facts)

    @property
    def facts(self) -> Facts:
        tokenizer = self.tokenizer
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
