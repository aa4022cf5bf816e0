"""Documents in a row, in an order that a key chooses: which one has a position of the row, and where it ends.

Axes: M documents.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from etude.data.order.permutation import KeyedPermutation
from etude.data.plan import random_keys
from etude.data.sizes import ShuffleName

BUCKET = 256
"""Documents after which a `KeyedRow` stores a position: it computes the order of so many to find one of them."""

REMEMBERED = 64
"""Buckets that a `KeyedRow` keeps."""

AT_ONCE = 1 << 12
"""Buckets that are measured together."""


class DocumentRow(ABC):
    """Documents one after the other."""

    @abstractmethod
    def at(self, position: int) -> tuple[int, int]:
        """Return the document that has a position, and the position after its last."""


class StoredRow(DocumentRow):
    """A row whose order is stored.

    Args:
        sizes: [M] positions of each document.
        key: Chooses the order.
    """

    def __init__(self, sizes: Int[np.ndarray, " M"], key: int) -> None:
        self._documents = np.argsort(random_keys(len(sizes), key), kind="stable")
        self._ends = np.cumsum(sizes[self._documents])

    def at(self, position: int) -> tuple[int, int]:
        """Return the document that has a position, and the position after its last."""
        index = int(np.searchsorted(self._ends, position, side="right"))
        return int(self._documents[index]), int(self._ends[index])


class KeyedRow(DocumentRow):
    """A row whose order is computed, and of which only every 256th position is stored.

    Args:
        sizes: [M] positions of each document.
        key: Chooses the order, another one than in a `StoredRow`.
    """

    def __init__(self, sizes: Int[np.ndarray, " M"], key: int) -> None:
        self._sizes = sizes
        self._order = KeyedPermutation(len(sizes), key)
        sums = list[Int[np.ndarray, " n"]]()
        for start in range(0, len(sizes), BUCKET * AT_ONCE):
            documents = self._order(np.arange(start, min(start + BUCKET * AT_ONCE, len(sizes))))
            sums.append(np.add.reduceat(sizes[documents], np.arange(0, len(documents), BUCKET)))
        self._starts = np.concatenate(([0], np.cumsum(np.concatenate(sums))))
        self._bucket = functools.lru_cache(REMEMBERED)(self._computed)

    def at(self, position: int) -> tuple[int, int]:
        """Return the document that has a position, and the position after its last."""
        documents, ends = self._bucket(int(np.searchsorted(self._starts, position, side="right")) - 1)
        index = int(np.searchsorted(ends, position, side="right"))
        return int(documents[index]), int(ends[index])

    def _computed(self, bucket: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the documents of a bucket, and where each ends."""
        start = bucket * BUCKET
        documents = self._order(np.arange(start, min(start + BUCKET, len(self._sizes))))
        return documents, self._starts[bucket] + np.cumsum(self._sizes[documents])


ROWS: Mapping[ShuffleName, type[StoredRow] | type[KeyedRow]] = {"stored": StoredRow, "keyed": KeyedRow}
"""Rows by `batch.shuffle`."""
