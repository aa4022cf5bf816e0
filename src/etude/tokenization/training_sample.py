"""A part of a stream of texts that is large enough to train a tokenizer on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

SAMPLE_CHARACTERS = 10_000_000
"""More text than this changes a vocabulary of some ten thousand pieces little, and training time a lot."""


def sample(texts: Iterable[str], characters: int = SAMPLE_CHARACTERS) -> list[str]:
    """Return all texts if they are few, else a pseudo-random part of at most the given number of characters.

    The texts of the smallest hashes are kept, as many as fit. So which ones stay depends on what they say, never on
    their order (a corpus may be sorted by class), and one pass in bounded memory finds them.

    Args:
        texts: Any number of texts.
        characters: Most characters to keep; one text is kept whatever its length, with its repetitions.

    Returns:
        The kept texts, in the order in which they came.
    """
    kept: list[tuple[int, int, str]] = []  # a heap, the largest hash first: (-hash, position, text)
    smallest = refused = 1 << 64
    total = 0
    for position, text in enumerate(texts):
        place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        if place >= refused:
            continue
        heapq.heappush(kept, (-place, position, text))
        smallest = min(smallest, place)
        total += len(text)
        while total > characters and -kept[0][0] > smallest:
            refused = -kept[0][0]
            while -kept[0][0] == refused:
                total -= len(heapq.heappop(kept)[2])
    return [text for _, _, text in sorted(kept, key=lambda entry: entry[1])]
