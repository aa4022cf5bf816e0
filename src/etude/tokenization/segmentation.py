"""Other ways to write a text in the pieces of a vocabulary, drawn at random: for training only.

A segmenter works on words as the tokenizer's own model gets them, one at a time, so that a word seen before costs a
look-up. It draws its random numbers from the iterator that it is given and from nowhere else.
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
"""Symbols of states, or edges of lattices, that a segmenter keeps: some ten megabytes. What comes later is made anew."""


class Segmenter(Protocol):
    """Writes words in pieces, at random."""

    def sample(self, words: Sequence[str], uniforms: Iterator[float]) -> list[int]:
        """Return the ids of words (`Tokenizer.words`) in a segmentation that is drawn.

        Args:
            words: Of one text, in order.
            uniforms: Numbers between 0 and 1, without end.
        """
        ...


class _State:
    """A word that is partly merged: what may be merged next, and what becomes of it if nothing is dropped any more."""

    __slots__ = ("after", "merges", "plain", "positions", "symbols")

    def __init__(self, symbols: tuple[str, ...], positions: list[int]) -> None:
        self.symbols = symbols
        self.positions = positions  # where a pair can be merged, the first learnt first
        self.after: list[_State | None] = [None] * len(positions)
        self.merges = 0  # how many merges follow if none is dropped
        self.plain: list[int] = []  # the ids after those


class BPESegmenter:
    """BPE-dropout (Provilkov et al. 2020, algorithm 1): before each merge, every merge that is possible may be dropped.

    A word is written as BPE writes it, but each time a merge is looked for, each candidate is left out with a given
    probability, and of those that stay the one learnt first is made; without any left, the word is done. As in the
    tokenizers library, a candidate is one occurrence of a pair. The number of candidates that stay until the next one is
    dropped is drawn at once, so that a word in which nothing is dropped is not looked at. A word of n characters
    without a space costs n² the first time.

    Args:
        tokenizer: Its model must be BPE with merges.
        probability: Of a candidate to be dropped, between 0 and 1.

    Raises:
        ConfigurationError: If the tokenizer's model is not such.
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
        """Pickle what it is made of, not what it remembers."""
        return (BPESegmenter, self._arguments)

    def sample(self, words: Sequence[str], uniforms: Iterator[float]) -> list[int]:
        """Return the ids of words in a segmentation that is drawn."""
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
        """Draw how many candidates stay before one is dropped: a geometric variable, by inversion."""
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
        """Return the state of these symbols, with all that follow it where nothing is dropped."""
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
        state = _State(
            symbols, [place for _, place in sorted((rank, i) for i, rank in enumerate(ranks) if rank is not None)]
        )
        if not state.positions:
            state.plain = self._ids(symbols)
        if self._held < REMEMBERED:
            self._states[symbols] = state
            self._held += len(symbols)
        return state

    def _ids(self, symbols: tuple[str, ...]) -> list[int]:
        found = (self._vocabulary.get(symbol, self._unknown) for symbol in symbols)
        return [i for i in found if i is not None]


def _merge(symbols: tuple[str, ...], place: int) -> tuple[str, ...]:
    return (*symbols[:place], symbols[place] + symbols[place + 1], *symbols[place + 2 :])


class _Edges(NamedTuple):
    """The pieces that may end at one place of a word."""

    starts: list[int]
    ids: list[int]
    cumulative: list[float]  # probabilities, given that the path comes to this place; without the last, which is 1


class UnigramSegmenter:
    """Subword regularization (Kudo 2018, section 3.2): a segmentation x is drawn with a probability ~ P(x)^α.

    Over all segmentations of a word (the l of the paper is infinite), by forward filtering and backward sampling. The
    words of a text are independent under the model. As in the tokenizers library, a character that is no piece is
    unknown, ten nats less likely than the least likely piece, and unknown characters side by side are one token.

    Args:
        tokenizer: Its model must be Unigram.
        alpha: α, above 0: near 0 every segmentation is as likely as any other; large, the most likely one is drawn.

    Raises:
        ConfigurationError: If the tokenizer's model is not such.
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
        """Pickle what it is made of, not what it remembers."""
        return (UnigramSegmenter, self._arguments)

    def sample(self, words: Sequence[str], uniforms: Iterator[float]) -> list[int]:
        """Return the ids of words in a segmentation that is drawn."""
        ids: list[int] = []
        for word in words:
            lattice = self._lattices.get(word) or self._build(word)
            drawn: list[int] = []
            place = len(word)
            while place:
                starts, pieces, cumulative = lattice[place]
                edge = bisect_left(cumulative, next(uniforms)) if cumulative else 0
                place = starts[edge]
                if pieces[edge] != self._unknown or drawn[-1:] != [self._unknown]:
                    drawn.append(pieces[edge])
            ids += reversed(drawn)
        return ids

    def _build(self, word: str) -> list[_Edges]:
        """Return the edges that end at each place of a word, from 0."""
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
        ConfigurationError: If it is of another kind, or has a setting that would have to be known here.
    """
    model: dict[str, Any] = json.loads(tokenizer.backend.to_str())["model"]
    settings = ("continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")
    found = [model["type"], *(name for name in settings if model.get(name))]
    if found != [kind] or model.get("merges") == []:
        what = "BPE without merges" if model.get("merges") == [] else " with ".join(found)
        raise ConfigurationError(
            f"data.sampling draws segmentations of a {kind} model, but the tokenizer is {what}; "
            f"write {choice}, or data.sampling=null"
        )
    return model
