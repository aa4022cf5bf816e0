"""Which words of two sentences belong together, as attention tells, and how wrong that is.

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
"""Pairs of a source word's and a target word's number, from 0."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Return the words of a text and its punctuation marks, each a word of its own."""
    return _WORD.findall(text)


def word_of_each(pieces: Sequence[str]) -> list[int]:
    """Return the number of the word of `words` that each piece of a text begins in; -1: in none.

    Args:
        pieces: Parts of the text, which are the text when joined.
    """
    spans = [match.span() for match in _WORD.finditer("".join(pieces))]
    found, end = [], 0
    for piece in pieces:
        start, end = end + len(piece) - len(piece.lstrip()), end + len(piece)
        inside = (number for number, (low, high) in enumerate(spans) if low <= start < high and piece.strip())
        found.append(next(inside, -1))
    return found


def by_words(weights: Float[Tensor, "Q L"], targets: Sequence[int], sources: Sequence[int]) -> Float[Tensor, "T S"]:
    """Return weights between words: the sum over a source word's tokens, and the mean over a target word's.

    Args:
        weights: Of target tokens over source tokens.
        targets: The word of each target token; -1: none.
        sources: The word of each source token; -1: none.
    """
    rows, columns = (_membership(owners).to(weights) for owners in (targets, sources))
    return rows.T @ weights @ columns / rows.sum(dim=0).clamp(min=1)[:, None]


def _membership(owners: Sequence[int]) -> Float[Tensor, "tokens words"]:
    """Return 1 where a token belongs to a word."""
    numbers = torch.tensor(owners, dtype=torch.long)
    return (numbers[:, None] == torch.arange(max(owners, default=-1) + 1)).double()


def align(weights: Float[Tensor, "T S"], symmetric: bool = False) -> Links:
    """Link each target word to the source word that it attends to most.

    Args:
        weights: Of target words over source words.
        symmetric: Keep only those links whose source word is attended to most by that target word: the intersection of
            both directions (Och and Ney 2003, section 4.4).
    """
    if not weights.numel():
        return frozenset()
    links = {(source, target) for target, source in enumerate(weights.argmax(dim=1).tolist())}
    if symmetric:
        links &= set(enumerate(weights.argmax(dim=0).tolist()))
    return frozenset(links)


def diagonal(sources: int, targets: int) -> Links:
    """Link each target word to the source word at the same part of the way: what one guesses without a model."""
    if not sources:
        return frozenset()
    return frozenset((source, target) for target, source in enumerate(opposite(targets, sources).tolist()))


class Gold(NamedTuple):
    """What a person linked in a pair of sentences.

    Attributes:
        sure: Links that must be there.
        possible: Links that may be there, the sure ones among them.
    """

    sure: Links
    possible: Links


def alignment_error_rate(found: Iterable[Links], gold: Iterable[Gold]) -> float:
    """Return AER = 1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|) over all sentences (Och and Ney 2003, equation 18).

    Args:
        found: The links A of each sentence.
        gold: The links S and P of each sentence.

    Returns:
        0 where all sure links and none but possible ones are found; at most 1. Nan where there are no links at all.
    """
    right = total = 0
    for links, (sure, possible) in zip(found, gold, strict=True):
        right += len(links & sure) + len(links & possible)
        total += len(links) + len(sure)
    return 1 - right / total if total else float("nan")
