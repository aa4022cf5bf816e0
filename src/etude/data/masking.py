"""Exactly-k masking for masked language models: single tokens, whole words, or spans.

The masking of a text is a pure function of (seed, epoch, example): it does not depend on workers, ranks or restarts. Since
exactly k tokens are chosen, the denominator of the loss is known before any text is read.

Axes: N texts, n tokens of one text.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from etude.errors import ConfigurationError
from etude.seeding import mix
from etude.tokenization.base import Tokenizer
from etude.tokenization.word_boundaries import WordBoundaries
from etude.types import IGNORED

Starts = Bool[np.ndarray, " n"]
"""Whether a word begins at each token."""

Bits = UInt64[np.ndarray, "2 n"]
"""Two random numbers for each token."""

Deciding = Int[np.ndarray, " n"]
"""For each predicted token, the token whose random number decides its replacement; -1 for all others."""


@dataclass(frozen=True)
class Masking(ABC):
    """How tokens are chosen for prediction, and replaced in the input (Devlin et al. 2019, section 3.1).

    Attributes:
        WORDS: Whether the choice depends on word boundaries; if not, every token counts as a word.
        probability: Share of a text's tokens that is predicted: exactly k = max(1, round(probability * n)) of n.
        masked: Share of the predicted tokens that is replaced by the mask token.
        random: Share of the predicted tokens that is replaced by a random token; the rest is left unchanged.

    Raises:
        ConfigurationError: If a share is impossible.
    """

    WORDS: ClassVar[bool] = True

    probability: float = 0.15
    masked: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ConfigurationError(
                f"data.masking.probability={self.probability} is out of range; write more than 0 and less than 1"
            )
        if not (self.masked >= 0 and self.random >= 0 and self.masked + self.random <= 1):
            raise ConfigurationError(
                f"data.masking: masked={self.masked} and random={self.random} are shares of the predicted tokens; "
                "write 0 or more each, and at most 1 together"
            )

    def counts(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Return the number of predicted tokens of texts of the given lengths."""
        return np.maximum(1, np.rint(self.probability * lengths)).astype(np.int64)

    @abstractmethod
    def select(self, starts: Starts, count: int, bits: Bits) -> Deciding:
        """Choose exactly `count` tokens of a text, given its word boundaries and random numbers."""


@dataclass(frozen=True)
class TokenMasking(Masking):
    """Single tokens, all equally likely (Devlin et al. 2019)."""

    WORDS: ClassVar[bool] = False

    def select(self, starts: Starts, count: int, bits: Bits) -> Deciding:
        """Choose the tokens with the smallest random numbers."""
        chosen = np.argsort(bits[0], kind="stable")[:count]
        deciding = np.full(len(starts), -1)
        deciding[chosen] = chosen
        return deciding


@dataclass(frozen=True)
class WholeWordMasking(Masking):
    """All tokens of a word or none (BERT's whole word masking), each replaced independently.

    Words are chosen in random order; a word with more tokens than are still needed is skipped, as in BERT's code. If no
    word is left that fits, the start of one word is chosen, so that exactly k tokens are predicted.
    """

    def select(self, starts: Starts, count: int, bits: Bits) -> Deciding:
        """Choose words that fit, in random order, then the start of the first that was skipped."""
        begins, ends = _words(starts)
        deciding = np.full(len(starts), -1)
        skipped: list[int] = []
        for word in np.argsort(bits[0][begins], kind="stable").tolist():
            begin, end = begins[word], ends[word]
            if end - begin <= count:
                deciding[begin:end] = np.arange(begin, end)
                count -= end - begin
            else:
                skipped.append(begin)
            if not count:
                return deciding
        begin = skipped[0]
        deciding[begin : begin + count] = np.arange(begin, begin + count)
        return deciding


@dataclass(frozen=True)
class SpanMasking(Masking):
    """Spans of whole words, each replaced as a unit (Joshi et al. 2020, section 3.1).

    The length of a span in words is geometric, truncated at `longest` and renormalised: with the defaults, 3.8 on average.
    A span begins at any word that is not chosen yet, and ends early at the end of the text, before a span that was chosen
    earlier, and at the k-th token.

    Attributes:
        geometric: Parameter p of the lengths' distribution: the probability of a length l is ~ p (1 - p)^(l - 1).
        longest: Most words of a span.

    Raises:
        ConfigurationError: If there is no such distribution.
    """

    geometric: float = 0.2
    longest: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.geometric < 1:
            raise ConfigurationError(
                f"data.masking.geometric={self.geometric} is out of range; write more than 0 and less than 1"
            )
        if self.longest < 1:
            raise ConfigurationError(f"data.masking.longest={self.longest} is too small; write 1 or more")

    def lengths(self, uniforms: Float[np.ndarray, " words"]) -> Int[np.ndarray, " words"]:
        """Return lengths for numbers in [0, 1), by the inverse of the lengths' cumulative distribution."""
        stays = 1 - self.geometric
        drawn = np.ceil(np.log1p(-uniforms * (1 - stays**self.longest)) / math.log(stays))
        return np.clip(drawn, 1, self.longest).astype(np.int64)

    def select(self, starts: Starts, count: int, bits: Bits) -> Deciding:
        """Choose spans that begin at words in random order until there are enough tokens."""
        begins, ends = _words(starts)
        lengths = self.lengths(bits[1][begins] / 2.0**64).tolist()
        deciding = np.full(len(starts), -1)
        for word in np.argsort(bits[0][begins], kind="stable").tolist():
            begin = begins[word]
            if deciding[begin] >= 0:
                continue
            chosen = deciding[begin : ends[min(word + lengths[word], len(ends)) - 1]] >= 0
            size = min(int(chosen.argmax()) if chosen.any() else len(chosen), count)
            deciding[begin : begin + size] = begin
            count -= size
            if not count:
                break
        return deciding


def _words(starts: Starts) -> tuple[list[int], list[int]]:
    """Return the first token of each word, and the one after its last."""
    begins = np.flatnonzero(starts).tolist()
    return begins, [*begins[1:], len(starts)]


class Masked(NamedTuple):
    """A text with some of its tokens masked.

    Attributes:
        inputs: Ids that the model reads.
        labels: Ids that it has to predict, `IGNORED` elsewhere.
    """

    inputs: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


class Masker:
    """A masking of the ids of a tokenizer.

    Args:
        masking: How tokens are chosen and replaced.
        tokenizer: Tokenizer of the ids; random replacements are ids of its vocabulary without the special tokens.

    Raises:
        ConfigurationError: If the masking needs word boundaries, and the tokenizer does not mark them.
    """

    def __init__(self, masking: Masking, tokenizer: Tokenizer) -> None:
        self.masking = masking
        self._mask = tokenizer.mask
        special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
        self._ordinary = np.setdiff1d(np.arange(tokenizer.vocabulary), special)
        self._boundaries = WordBoundaries.of(tokenizer) if masking.WORDS else None

    def __call__(self, ids: Int[np.ndarray, " n"], key: tuple[int, int, int]) -> Masked:
        """Mask tokens of a text.

        Args:
            ids: Ids of the text, without bos and eos.
            key: (seed, epoch, example).
        """
        masking, length = self.masking, len(ids)
        bits = np.random.Philox(key=mix("masking", *key)).random_raw(4 * length).reshape(4, length)
        starts = np.ones(length, bool) if self._boundaries is None else self._boundaries.starts(ids)
        deciding = masking.select(starts, int(masking.counts(np.array([length]))[0]), bits[::3])
        chosen = deciding >= 0
        share = (bits[1] / 2.0**64)[deciding]
        swapped = np.where(
            share < masking.masked + masking.random, self._ordinary[bits[2] % np.uint64(len(self._ordinary))], ids
        )
        inputs = np.where(chosen, np.where(share < masking.masked, self._mask, swapped), ids)
        return Masked(inputs, np.where(chosen, ids, IGNORED))
