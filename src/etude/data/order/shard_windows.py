"""The order of examples that lie in shards: shards in random order, and the examples of a few neighbouring ones mixed.

So a few shards at a time are enough to read an epoch, and the order is as much at random as these allow. It is a function of
the position, and stores no example.

Axes: S shards, n positions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from etude.data.order.permutation import KeyedPermutation
from etude.seeding import mix


class ShardWindows:
    """A pseudorandom order of all examples, in windows of several shards.

    Called with positions [n], it returns the examples [n] that stand there; those of shard 0 have the first numbers.

    Args:
        sizes: [S] examples of each shard, at least one.
        window: Shards whose examples are mixed with each other.
        key: Chooses the order.

    Attributes:
        shards: [S] shards in the order in which they are read.
    """

    def __init__(self, sizes: Int[np.ndarray, " S"], window: int, key: int) -> None:
        self.shards = KeyedPermutation(len(sizes), key)(np.arange(len(sizes)))
        self._window = window
        self._first = np.concatenate(([0], np.cumsum(sizes)))
        self._starts = np.concatenate(([0], np.cumsum(sizes[self.shards])))
        bounds = self._starts[::window]
        self._bounds = bounds if bounds[-1] == self._starts[-1] else np.append(bounds, self._starts[-1])
        self._key = key
        self._places = np.argsort(self.shards)

    def __call__(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the examples at some positions."""
        windows = np.searchsorted(self._bounds, positions, side="right") - 1
        places = np.empty_like(positions)
        for window in np.unique(windows):
            here, (start, end) = windows == window, self._bounds[window : window + 2]
            mixed = KeyedPermutation(int(end - start), mix("window", self._key, int(window)))
            places[here] = start + mixed(positions[here] - start)
        read = np.searchsorted(self._starts, places, side="right") - 1
        return self._first[self.shards[read]] + places - self._starts[read]

    def window_of(self, shard: int) -> int:
        """Return the window that a shard belongs to."""
        return int(self._places[shard]) // self._window

    def shards_of(self, window: int) -> list[int]:
        """Return the shards of a window, in the order in which they are read; none behind the last window."""
        return [int(shard) for shard in self.shards[window * self._window : (window + 1) * self._window]]
