"""Random segmentations of text into the pieces of a vocabulary, for training.

A segmenter works on the same words as the tokenizer's model, one at a time, so that a word that was seen before is only
looked up. Its only source of randomness is the iterator of random numbers that it is called with.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer

REMEMBERED = 1_000_000
"""Symbols of states, or edges of lattices, that a segmenter remembers, some ten megabytes; others are computed anew."""


class Segmenter(Protocol):
    """A distribution over the segmentations of words."""

    def sample(self, words: Sequence[str], uniforms: Iterator[float]) -> list[int]:
        """Return the ids of words in a sampled segmentation.

        Args:
            words: Words of one text, as `Tokenizer.words` returns them.
            uniforms: Endless random numbers between 0 and 1.
        """
        ...


class _State:
    """A partly merged word: its possible merges, and its ids if no further merge is dropped."""

    __slots__ = ("after", "merges", "plain", "positions", "symbols")

    def __init__(self, symbols: tuple[str, ...], positions: list[int]) -> None:
        self.symbols = symbols
        self.positions = positions  # of the pairs that can be merged, in the order in which their merges were learnt
        self.after: list[_State | None] = [None] * len(positions)  # the state after each of those merges
        self.merges = 0  # number of merges that follow if none is dropped
        self.plain: list[int] = []  # the ids after those merges


class BPESegmenter:
    """BPE-dropout (Provilkov et al. 2020, algorithm 1): before each merge, every merge that is possible may be dropped.

    At each step, each candidate merge is dropped with the given probability; of the others, the one learnt first is made;
    if there are none, the word is finished. As in the tokenizers library, a candidate is a single occurrence of a pair. The
    number of candidates until the next one is dropped is sampled at once, so that a word without a dropped merge is only
    looked up. A word of n characters costs n² the first time.

    Args:
        tokenizer: Tokenizer whose model is BPE with merges.
        probability: Probability that a candidate is dropped, between 0 and 1.

    Raises:
        ConfigurationError: If the tokenizer's model is of another kind.
    """

    def __init__(self, tokenizer: Tokenizer, probability: float) -> None:
        model = _model(tokenizer, "BPE", "tokenizer=bpe")
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        self._arguments = (tokenizer, probability)
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
        self._vocabulary: dict[str, int] = model["vocab"]
        self._unknown = None if model["unk_token"] is None else tokenizer.unknown
        self._log_kept = math.log1p(-probability)
        self._states: dict[tuple[str, ...], _State] = {}
        self._words: dict[str, _State] = {}
        self._held = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, not what is remembered."""
        return (BPESegmenter, self._arguments)

    def sample(self, words: Sequence[str], uniforms: Iterator[float]) -> list[int]:
        """Return the ids of words in a sampled segmentation."""
        ids: list[int] = []
        kept = self._kept(uniforms)
        for word in words:
            state, candidate = self._words.get(word) or self._begin(word), 0
            while True:
                if candidate == 0 and kept >= state.merges:
                    kept -= state.merges
                    ids += state.plain
                    break
                if candidate == len(state.positions):
                    ids += self._ids(state.symbols)
                    break
                if kept:
                    kept, state, candidate = kept - 1, self._merged(state, candidate), 0
                else:
                    kept, candidate = self._kept(uniforms), candidate + 1
        return ids

    def _kept(self, uniforms: Iterator[float]) -> int:
        """Return the number of candidates before the next dropped one: a geometric variable, by inversion."""
        return int(math.log(next(uniforms)) / self._log_kept)

    def _begin(self, word: str) -> _State:
        state = self._state(tuple(word))
        if self._held < REMEMBERED:
            self._words[word] = state
        return state

    def _merged(self, state: _State, candidate: int) -> _State:
        after = state.after[candidate]
        if after is None:
            after = self._state(_merge(state.symbols, state.positions[candidate]))
            if self._held < REMEMBERED:
                state.after[candidate] = after
        return after

    def _state(self, symbols: tuple[str, ...]) -> _State:
        """Return the state of some symbols, linked to all states that follow it if no merge is dropped."""
        chain = [self._states.get(symbols) or self._new(symbols)]
        while chain[-1].positions and chain[-1].after[0] is None:
            symbols = _merge(chain[-1].symbols, chain[-1].positions[0])
            chain.append(self._states.get(symbols) or self._new(symbols))
        for state, following in zip(chain[-2::-1], chain[:0:-1], strict=True):
            state.after[0] = following
            state.merges, state.plain = following.merges + 1, following.plain
        return chain[0]

    def _new(self, symbols: tuple[str, ...]) -> _State:
        ranks = [self._ranks.get(pair) for pair in itertools.pairwise(symbols)]
        ranked = sorted((rank, position) for position, rank in enumerate(ranks) if rank is not None)
        state = _State(symbols, [position for _, position in ranked])
        if not state.positions:
            state.plain = self._ids(symbols)
        if self._held < REMEMBERED:
            self._states[symbols] = state
            self._held += len(symbols)
        return state

    def _ids(self, symbols: tuple[str, ...]) -> list[int]:
        ids = (self._vocabulary.get(symbol, self._unknown) for symbol in symbols)
        return [i for i in ids if i is not None]


def _merge(symbols: tuple[str, ...], position: int) -> tuple[str, ...]:
    return (*symbols[:position], symbols[position] + symbols[position + 1], *symbols[position + 2 :])


class _Edges(NamedTuple):
    """The pieces that may end at a position of a word."""

    starts: list[int]
    ids: list[int]
    cumulative: list[float]  # probabilities, given a path to this position; without the last one, which is 1


class UnigramSegmenter:
    """Subword regularization (Kudo 2018, section 3.2): the probability of a segmentation x is ~ P(x)^α.

    All segmentations of a word are possible (the paper's l is infinite): they are sampled by forward filtering and backward
    sampling. The words of a text are independent under the model. As in the tokenizers library, a character that is not a
    piece is unknown, ten nats less likely than the least likely piece, and adjacent unknown characters are one token.

    Args:
        tokenizer: Tokenizer whose model is Unigram.
        alpha: α, above 0: near 0, all segmentations are equally likely; large, only the most likely one is sampled.

    Raises:
        ConfigurationError: If the tokenizer's model is of another kind.
    """

    def __init__(self, tokenizer: Tokenizer, alpha: float) -> None:
        model = _model(tokenizer, "Unigram", "tokenizer=unigram")
        scores = [score for _, score in model["vocab"]]
        self._arguments = (tokenizer, alpha)
        self._alpha = alpha
        self._unknown = model["unk_id"]
        self._unknown_score = min(scores) - 10.0
        special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unknown, tokenizer.mask}
        self._pieces = {piece: (i, score) for i, (piece, score) in enumerate(model["vocab"]) if i not in special}
        self._longest = max(map(len, self._pieces))
        self._lattices: dict[str, list[_Edges]] = {}
        self._held = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, not what is remembered."""
        return (UnigramSegmenter, self._arguments)

    def sample(self, words: Sequence[str], uniforms: Iterator[float]) -> list[int]:
        """Return the ids of words in a sampled segmentation."""
        ids: list[int] = []
        for word in words:
            lattice = self._lattices.get(word) or self._build(word)
            drawn: list[int] = []
            position = len(word)
            while position:
                starts, pieces, cumulative = lattice[position]
                edge = bisect_left(cumulative, next(uniforms)) if cumulative else 0
                position = starts[edge]
                if pieces[edge] != self._unknown or drawn[-1:] != [self._unknown]:
                    drawn.append(pieces[edge])
            ids += reversed(drawn)
        return ids

    def _build(self, word: str) -> list[_Edges]:
        """Return the edges that end at each position of a word, from 0."""
        lattice, forward = [_Edges([], [], [])], [0.0]
        for end in range(1, len(word) + 1):
            edges = [
                (start, *self._pieces[word[start:end]])
                for start in range(max(0, end - self._longest), end)
                if word[start:end] in self._pieces
            ]
            if not edges or edges[-1][0] != end - 1:
                edges.append((end - 1, self._unknown, self._unknown_score))
            weights = [forward[start] + self._alpha * score for start, _, score in edges]
            largest = max(weights)
            shares = [math.exp(weight - largest) for weight in weights]
            total = sum(shares)
            forward.append(largest + math.log(total))
            cumulative = [sum(shares[: i + 1]) / total for i in range(len(shares) - 1)]
            lattice.append(_Edges([edge[0] for edge in edges], [edge[1] for edge in edges], cumulative))
        if self._held < REMEMBERED:
            self._lattices[word] = lattice
            self._held += sum(len(edges.starts) for edges in lattice)
        return lattice


def _model(tokenizer: Tokenizer, kind: str, choice: str) -> dict[str, Any]:
    """Return the model of a tokenizer as plain values.

    Raises:
        ConfigurationError: If it is of another kind, or has a setting that segmenters do not implement.
    """
    model: dict[str, Any] = json.loads(tokenizer.backend.to_str())["model"]
    settings = ("continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")
    features = [model["type"], *(name for name in settings if model.get(name))]
    if features != [kind] or model.get("merges") == []:
        actual = "BPE without merges" if model.get("merges") == [] else " with ".join(features)
        raise ConfigurationError(
            f"data.sampling draws segmentations of a {kind} model, but the tokenizer is {actual}; "
            f"write {choice}, or data.sampling=null"
        )
    return model
