"""Segmentations sampled anew in each epoch: a training text is written in other pieces each time it is read.

A segmentation is a pure function of (seed, epoch, example, field): it does not depend on ranks, workers, micro-batches or
restarts. The plan ignores it: batches are planned by the lengths of the plain segmentation, so that every epoch has the
same number of steps, and only the divisor of a step's loss is counted anew.
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
from etude.tokenization.base import LONGEST_WORD, Tokenizer
from etude.tokenization.segmentation import BPESegmenter, Segmenter, UnigramSegmenter

REMEMBERED_TEXTS = 1 << 17
"""Texts whose words are remembered: some ten megabytes."""

REMEMBERED_DRAWS = 1 << 12
"""Segmentations that are remembered from counting their tokens until their batch is made."""

Tokens = Callable[[int, int], Int[np.ndarray, " n"]]
"""(example, epoch) -> ids [n], without special tokens."""


class Sampling(Protocol):
    """How the texts of pairs are segmented in training."""

    def segmenters(self, tokenizer: Tokenizer) -> dict[str, Segmenter]:
        """Return a segmenter for each field whose segmentation is sampled: `source`, `target`."""
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
        """Return a segmenter for each field with a probability above 0."""
        probabilities = {"source": self.source, "target": self.target}
        return {
            field: BPESegmenter(tokenizer.of(field), probability)
            for field, probability in probabilities.items()
            if probability
        }


@dataclass(frozen=True)
class UnigramSampling:
    """Subword regularization (Kudo 2018), which uses α from 0.1 to 0.5. For `tokenizer=unigram`.

    Attributes:
        source: α of source texts: the smaller, the more segmentations vary; null: plain segmentation.
        target: The same for target texts.
    """

    source: float | None = 0.2
    target: float | None = 0.2

    def __post_init__(self) -> None:
        for field, alpha in (("source", self.source), ("target", self.target)):
            if alpha is not None and alpha <= 0:
                raise ConfigurationError(f"data.sampling.{field}={alpha} is not positive; write 0.2, or null for none")

    def segmenters(self, tokenizer: Tokenizer) -> dict[str, Segmenter]:
        """Return a segmenter for each field with an α."""
        alphas = {"source": self.source, "target": self.target}
        return {
            field: UnigramSegmenter(tokenizer.of(field), alpha) for field, alpha in alphas.items() if alpha is not None
        }


class SampledTokens:
    """The ids of a field in sampled segmentations: `tokens(example, epoch)`.

    The plain segmentation stands in for a sampled one that is too long for the model, and for that of a text with a word
    of more than `LONGEST_WORD` characters.

    Args:
        plain: Ids of each example in the plain segmentation.
        texts: Text of each example.
        tokenizer: Tokenizer of the plain segmentation.
        segmenter: Samples segmentations.
        key: Seed of the run, and name of the field.
        max_length: Most ids of a segmentation.
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
        """Pickle the arguments, not what is remembered."""
        return (SampledTokens, self._arguments)

    def _split(self, example: int) -> tuple[str, ...]:
        return tuple(map(sys.intern, self._tokenizer.words(self._texts[example])))

    def _draw(self, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        words = self._words(example)
        if any(len(word) > LONGEST_WORD for word in words):
            return self._plain[example]
        seed, field = self._key
        ids = self._segmenter.sample(words, uniforms("segmentation", seed, epoch, example, field))
        return np.array(ids, self._plain.dtype) if len(ids) <= self._max_length else self._plain[example]
