"""Samples of a stream of texts that are large enough to train a tokenizer on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

SAMPLE_CHARACTERS = 10_000_000
"""More text hardly changes a vocabulary of some ten thousand pieces, but training takes much longer."""


def sample(texts: Iterable[str], characters: int = SAMPLE_CHARACTERS) -> list[str]:
    """Return all texts if they are few, else a pseudo-random sample of at most the given number of characters.

    The sample is the texts with the smallest hashes, as many as fit. So it depends on their content, never on their order
    (a corpus may be sorted by class), and is found in one pass in bounded memory.

    Args:
        texts: Any number of texts.
        characters: Most characters of the sample, which has at least one text, with its repetitions.

    Returns:
        The sample, in the order of the texts.
    """
    selected: list[tuple[int, int, str]] = []  # a heap, the largest hash first: (-hash, position, text)
    smallest = refused = 1 << 64
    total = 0
    for position, text in enumerate(texts):
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        if key >= refused:
            continue
        heapq.heappush(selected, (-key, position, text))
        smallest = min(smallest, key)
        total += len(text)
        while total > characters and -selected[0][0] > smallest:
            refused = -selected[0][0]
            while -selected[0][0] == refused:
                total -= len(heapq.heappop(selected)[2])
    return [text for _, _, text in sorted(selected, key=lambda entry: entry[1])]
