"""Segmentations that change from epoch to epoch: a text in training is written in other pieces each time it is read.

Which pieces is a pure function of (seed, epoch, example, field). It depends on no rank, worker, micro-batch or restart.
The plan knows nothing of it: batches are made of the examples that the plain segmentation would put together, so that an
epoch has the same steps every time, and only what a step's loss is divided by is counted anew.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from etude.data.cache import Ragged, TextColumn
from etude.errors import ConfigurationError
from etude.seeding import uniforms
from etude.tokenization.base import Tokenizer
from etude.tokenization.segmentation import BPESegmenter, Segmenter, UnigramSegmenter

REMEMBERED_TEXTS = 1 << 17
"""Texts whose words are kept in memory: some ten megabytes."""

REMEMBERED_DRAWS = 1 << 12
"""Segmentations that are kept for the batch, once they were counted."""

Tokens = Callable[[int, int], Int[np.ndarray, " n"]]
"""(example, epoch) -> ids, without special tokens."""


class Sampling(Protocol):
    """How the texts of pairs are segmented in training."""

    def segmenters(self, tokenizer: Tokenizer) -> dict[str, Segmenter]:
        """Return a segmenter for each field whose segmentation is drawn: `source`, `target`."""
        ...


@dataclass(frozen=True)
class BPEDropout:
    """BPE-dropout (Provilkov et al. 2020), which uses 0.1 on both sides. For `tokenizer=bpe`.

    Attributes:
        source: Probability that a merge is dropped in source texts; 0: plain segmentation.
        target: The same for target texts.
    """

    source: float = 0.1
    target: float = 0.1

    def __post_init__(self) -> None:
        for field, probability in (("source", self.source), ("target", self.target)):
            if not 0 <= probability < 1:
                raise ConfigurationError(f"data.sampling.{field}={probability} is not in [0, 1); write 0.1")

    def segmenters(self, tokenizer: Tokenizer) -> dict[str, Segmenter]:
        """Return those of the fields with a probability above 0."""
        chosen = {"source": self.source, "target": self.target}
        return {
            field: BPESegmenter(tokenizer.of(field), probability)
            for field, probability in chosen.items()
            if probability
        }


@dataclass(frozen=True)
class UnigramSampling:
    """Subword regularization (Kudo 2018), which uses α from 0.1 to 0.5. For `tokenizer=unigram`.

    Attributes:
        source: α of source texts: the smaller, the more segmentations differ; null: plain segmentation.
        target: The same for target texts.
    """

    source: float | None = 0.2
    target: float | None = 0.2

    def __post_init__(self) -> None:
        for field, alpha in (("source", self.source), ("target", self.target)):
            if alpha is not None and alpha <= 0:
                raise ConfigurationError(f"data.sampling.{field}={alpha} is not positive; write 0.2, or null for none")

    def segmenters(self, tokenizer: Tokenizer) -> dict[str, Segmenter]:
        """Return those of the fields with an α."""
        chosen = {"source": self.source, "target": self.target}
        return {
            field: UnigramSegmenter(tokenizer.of(field), alpha) for field, alpha in chosen.items() if alpha is not None
        }


class SampledTokens:
    """The ids of a field in a segmentation that is drawn: `tokens(example, epoch)`.

    One that is drawn too long for the model is the plain one instead.

    Args:
        plain: The ids of each example in the plain segmentation.
        texts: The texts that they were made of.
        tokenizer: What made them.
        segmenter: Draws segmentations.
        key: The seed and the field.
        max_length: Most ids.
    """

    def __init__(
        self,
        plain: Ragged,
        texts: TextColumn,
        tokenizer: Tokenizer,
        segmenter: Segmenter,
        key: tuple[int, str],
        max_length: int,
    ) -> None:
        self._arguments = (plain, texts, tokenizer, segmenter, key, max_length)
        self._plain = plain
        self._texts = texts
        self._tokenizer = tokenizer
        self._segmenter = segmenter
        self._key = key
        self._max_length = max_length
        self._words = functools.lru_cache(REMEMBERED_TEXTS)(self._split)
        self._drawn = functools.lru_cache(REMEMBERED_DRAWS)(self._draw)

    def __call__(self, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        """Return the ids of an example in an epoch."""
        return self._drawn(int(example), epoch)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of, not what it remembers."""
        return (SampledTokens, self._arguments)

    def _split(self, example: int) -> tuple[str, ...]:
        return tuple(map(sys.intern, self._tokenizer.words(self._texts[example])))

    def _draw(self, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        seed, field = self._key
        source = uniforms("segmentation", seed, epoch, example, field)
        ids = self._segmenter.sample(self._words(example), source)
        return np.array(ids, self._plain.dtype) if len(ids) <= self._max_length else self._plain[example]
