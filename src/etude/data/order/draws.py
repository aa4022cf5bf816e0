"""What a weighted mixture draws: an endless row of examples of several parts, as a function of the position.

The row consists of blocks. In each, every part has as many places as its weight says, and they are shuffled; so the shares are
exact in any number of blocks. Each part gives its examples in an order of its own, all of them before any comes again.

Axes: n positions, A parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from etude.data.order.permutation import KeyedPermutation
from etude.seeding import mix

OUT_OF = 1000
"""Places of a block whose shares are those of sizes."""

_STEPS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class MixtureDraw(NamedTuple):
    """What stands at some positions.

    Attributes:
        parts: [n] part of each.
        epochs: [n] how often that part was read before.
        examples: [n] example of the part.
    """

    parts: Int[np.ndarray, " n"]
    epochs: Int[np.ndarray, " n"]
    examples: Int[np.ndarray, " n"]


class Draws:
    """A weighted mixture of parts.

    Args:
        sizes: [A] examples of each part, at least one.
        weights: [A] places of each part in a block, at least one; a common factor is taken out.
        keys: [A] of each part, which chooses its orders.
        key: Chooses the places in the blocks.

    Attributes:
        places: [A] places of each part in a block.
        block: Places of a block.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[int], keys: Sequence[int], key: int) -> None:
        self.sizes = np.array(sizes, np.int64)
        self.places = np.array(weights, np.int64) // gcd(*weights)
        self.block = int(self.places.sum())
        self._ends = np.cumsum(self.places)
        self._keys = list(keys)
        self._key = np.uint64(key)

    def at(self, positions: Int[np.ndarray, " n"]) -> MixtureDraw:
        """Return what stands at some positions; all of their blocks are looked at."""
        blocks, inner = np.divmod(positions, self.block)
        places = self._shuffled(blocks, inner)
        parts = np.searchsorted(self._ends, places, side="right")
        numbers = blocks * self.places[parts] + places - (self._ends - self.places)[parts]
        epochs, turns = np.divmod(numbers, self.sizes[parts])
        return MixtureDraw(parts, epochs, self._ordered(parts, epochs, turns))

    def order(self, part: int, epoch: int) -> KeyedPermutation:
        """Return the order in which a part gives its examples in an epoch of its own."""
        return KeyedPermutation(int(self.sizes[part]), mix("part", self._keys[part], epoch))

    def _shuffled(self, blocks: Int[np.ndarray, " n"], inner: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the place of each position in its block, after the block was shuffled."""
        numbers, rows = np.unique(blocks, return_inverse=True)
        hashes = _hashed((numbers[:, None] * self.block + np.arange(self.block)).astype(np.uint64), self._key)
        order = np.argsort(hashes, axis=1, kind="stable")
        shuffled: Int[np.ndarray, " n"] = order[rows, inner]
        return shuffled

    def _ordered(
        self, parts: Int[np.ndarray, " n"], epochs: Int[np.ndarray, " n"], turns: Int[np.ndarray, " n"]
    ) -> Int[np.ndarray, " n"]:
        """Return the examples whose turn it is in an epoch of their part."""
        examples = np.empty_like(turns)
        for (part, epoch), places in grouped(parts, epochs):
            examples[places] = self.order(part, epoch)(turns[places])
        return examples


def grouped(
    first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]
) -> list[tuple[tuple[int, int], Int[np.ndarray, " m"]]]:
    """Return the places of each pair of values that occurs, by the pairs in their order."""
    if not len(first):
        return []
    order = np.lexsort((second, first))
    pairs = np.stack((first[order], second[order]), axis=1)
    starts = np.flatnonzero(np.concatenate(([True], (pairs[1:] != pairs[:-1]).any(axis=1))))
    places = np.split(order, starts[1:])
    return [((int(pairs[start, 0]), int(pairs[start, 1])), some) for start, some in zip(starts, places, strict=True)]


def apportioned(sizes: Sequence[int], temperature: float) -> list[int]:
    """Return weights out of 1,000 in proportion to sizes to the power of 1/temperature, by largest remainders.

    A temperature of 1 takes parts as they are; the higher it is, the more equal they become (Arivazhagan et al. 2019).
    """
    powers = (np.array(sizes, np.float64) / max(sizes)) ** (1 / temperature)
    exact = powers / powers.sum() * OUT_OF
    weights = np.floor(exact).astype(np.int64)
    missing = OUT_OF - int(weights.sum())
    weights[np.argsort(weights - exact, kind="stable")[:missing]] += 1
    return [int(weight) for weight in weights]


def _hashed(numbers: UInt64[np.ndarray, "blocks block"], key: np.uint64) -> UInt64[np.ndarray, "blocks block"]:
    """Return a hash of numbers and a key (the end of SplitMix64, Steele et al. 2014), modulo 2⁶⁴."""
    hashed = numbers + key
    for shift, step in zip(_SHIFTS, _STEPS, strict=False):
        hashed = (hashed ^ (hashed >> shift)) * step
    return hashed ^ (hashed >> _SHIFTS[2])
