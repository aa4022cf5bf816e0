"""Word alignments of sentence pairs, read from attention, and their error rate.

Axes: Q target tokens, L source tokens, T target words, S source words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from etude.metrics.head_summary import opposite

Links = frozenset[tuple[int, int]]
"""Pairs of the indices of a source word and a target word."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Return the words of a text; each punctuation mark is a word of its own."""
    return _WORD.findall(text)


def word_of_each(pieces: Sequence[str]) -> list[int]:
    """Return the index of the word of `words` in which each piece of a text begins; -1: in none.

    Args:
        pieces: Parts of the text, in order.
    """
    spans = [match.span() for match in _WORD.finditer("".join(pieces))]
    indices, end = [], 0
    for piece in pieces:
        start, end = end + len(piece) - len(piece.lstrip()), end + len(piece)
        inside = (index for index, (low, high) in enumerate(spans) if low <= start < high and piece.strip())
        indices.append(next(inside, -1))
    return indices


def by_words(weights: Float[Tensor, "Q L"], targets: Sequence[int], sources: Sequence[int]) -> Float[Tensor, "T S"]:
    """Return attention between words: summed over the tokens of a source word, averaged over those of a target word.

    Args:
        weights: Attention of target tokens to source tokens.
        targets: Index of each target token's word; -1: none.
        sources: Index of each source token's word; -1: none.
    """
    rows, columns = (_membership(owners).to(weights) for owners in (targets, sources))
    return rows.T @ weights @ columns / rows.sum(dim=0).clamp(min=1)[:, None]


def _membership(owners: Sequence[int]) -> Float[Tensor, "tokens words"]:
    """Return 1 where a token belongs to a word, else 0."""
    numbers = torch.tensor(owners, dtype=torch.long)
    return (numbers[:, None] == torch.arange(max(owners, default=-1) + 1)).double()


def align(weights: Float[Tensor, "T S"], symmetric: bool = False) -> Links:
    """Link each target word to the source word that it attends to most.

    Args:
        weights: Attention of target words to source words.
        symmetric: Whether only those links are kept whose source word is attended to most by that target word: the
            intersection of both directions (Och and Ney 2003, section 4.4).
    """
    if not weights.numel():
        return frozenset()
    links = {(source, target) for target, source in enumerate(weights.argmax(dim=1).tolist())}
    if symmetric:
        links &= set(enumerate(weights.argmax(dim=0).tolist()))
    return frozenset(links)


def diagonal(sources: int, targets: int) -> Links:
    """Link each target word to the source word at the same relative position: the guess without a model."""
    if not sources:
        return frozenset()
    return frozenset((source, target) for target, source in enumerate(opposite(targets, sources).tolist()))


class Gold(NamedTuple):
    """The alignment of a sentence pair by a human annotator.

    Attributes:
        sure: Links that must be found.
        possible: Links that may be found, including the sure ones.
    """

    sure: Links
    possible: Links


def alignment_error_rate(predicted: Iterable[Links], gold: Iterable[Gold]) -> float:
    """Return AER = 1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|) over all sentences (Och and Ney 2003, equation 18).

    Args:
        predicted: Links A of each sentence pair.
        gold: Links S and P of each sentence pair.

    Returns:
        A rate from 0, if all sure links and only possible ones were predicted, to 1; nan if there are no links at all.
    """
    right = total = 0
    for links, (sure, possible) in zip(predicted, gold, strict=True):
        right += len(links & sure) + len(links & possible)
        total += len(links) + len(sure)
    return 1 - right / total if total else float("nan")
