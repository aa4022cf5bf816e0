"""A permutation that is computed and not stored: which number stands at a position, and where a number stands.

It is a Feistel network (Luby and Rackoff 1988) on the cells of a table with hardly more cells than there are numbers, and a
number that falls outside is sent through it again, until it falls inside: cycle walking (Black and Rogaway 2002).

Axes: n positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isqrt

import numpy as np
from jaxtyping import Int, UInt64

from etude.seeding import mix

ROUNDS = 12
"""Each side of a cell is moved six times: with fewer, permutations of five or six numbers are not equally frequent."""

AT_ONCE = 1 << 14
"""Positions that go through the rounds together: what they need in between stays in the processor's cache."""

LARGEST = 1 << 60
"""Most numbers: the sides of the table fit into 32 bits."""

_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


class KeyedPermutation:
    """A pseudorandom permutation of the numbers from 0 to size - 1, in constant memory.

    Called with positions [n], it returns the numbers [n] that stand there.

    Args:
        size: How many numbers.
        key: Chooses the permutation.

    Raises:
        ValueError: If the size is not from 1 to 2⁶⁰.
    """

    def __init__(self, size: int, key: int) -> None:
        if not 1 <= size <= LARGEST:
            raise ValueError(f"a permutation of {size} numbers; give 1 to {LARGEST}")
        self.size = size
        self.key = key
        # With an even number of rows a round can also be an odd permutation, so that none is out of reach.
        self._rows = isqrt(size - 1) // 2 * 2 + 2
        self._columns = -(-size // self._rows)
        self._keys = [np.uint64(mix("round", key, number)) for number in range(ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __call__(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the numbers at some positions."""
        return self._walked(positions, self._forth)

    def inverse(self, numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the positions of some numbers."""
        return self._walked(numbers, self._back)

    def _walked(
        self,
        places: Int[np.ndarray, " n"],
        through: Callable[[UInt64[np.ndarray, " n"]], UInt64[np.ndarray, " n"]],
    ) -> Int[np.ndarray, " n"]:
        """Send places through the network until they are all below the size."""
        if len(places) and not 0 <= places.min() <= places.max() < self.size:
            raise IndexError(f"positions from {places.min()} to {places.max()} of {self.size}")
        moved = np.empty(len(places), np.int64)
        for part in _parts(len(places)):
            cells = through(places[part].astype(np.uint64))
            outside = np.flatnonzero(cells >= self.size)
            while len(outside):
                cells[outside] = through(cells[outside])
                outside = outside[cells[outside] >= self.size]
            moved[part] = cells
        return moved

    def _forth(self, cells: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        sides = [*np.divmod(cells, np.uint64(self._columns))]
        for number, (side, modulus) in enumerate(self._rounds()):
            sides[side] += self._shift(sides[1 - side], number, modulus)
            sides[side] = _below(sides[side], modulus)
        return sides[0] * np.uint64(self._columns) + sides[1]

    def _back(self, cells: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        sides = [*np.divmod(cells, np.uint64(self._columns))]
        for number, (side, modulus) in reversed([*enumerate(self._rounds())]):
            sides[side] += modulus - self._shift(sides[1 - side], number, modulus)
            sides[side] = _below(sides[side], modulus)
        return sides[0] * np.uint64(self._columns) + sides[1]

    def _rounds(self) -> Iterator[tuple[int, np.uint64]]:
        """Yield for each round the side that is moved, rows and columns in turn, and their number."""
        for number in range(ROUNDS):
            yield number % 2, np.uint64((self._rows, self._columns)[number % 2])

    def _shift(self, side: UInt64[np.ndarray, " n"], number: int, modulus: np.uint64) -> UInt64[np.ndarray, " n"]:
        """Return a hash of one side and the round's key, below the modulus."""
        hashed = side * _FIRST  # modulo 2^64, as all that follows
        hashed += self._keys[number]
        hashed ^= hashed >> _HALF
        hashed *= _SECOND
        hashed >>= _HALF
        hashed *= modulus
        hashed >>= _HALF
        return hashed


def _below(numbers: UInt64[np.ndarray, " n"], modulus: np.uint64) -> UInt64[np.ndarray, " n"]:
    """Return numbers below twice the modulus, reduced by it: without a sign, one that is too small becomes very large."""
    return np.minimum(numbers, numbers - modulus)


def _parts(size: int) -> Iterator[slice]:
    for start in range(0, size, AT_ONCE):
        yield slice(start, min(start + AT_ONCE, size))
