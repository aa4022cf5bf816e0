"""Key-value cache of self-attention in decoding.

Axes: B rows, L positions so far, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SPARE = 8
"""Number of positions that are allocated ahead."""


@dataclass
class _Buffer:
    """Memory that several caches may share.

    Attributes:
        states: Keys and values of each row and position; unused positions are uninitialised.
        used: Number of positions that some cache has written.
    """

    states: Float[Tensor, "B L 2 H K"]
    used: int

    @classmethod
    def like(cls, states: Float[Tensor, "B L 2 H K"], rows: int, length: int) -> _Buffer:
        """Return a buffer for the given number of rows, with `length` used positions and spare ones."""
        return cls(states.new_empty(rows, length + SPARE, *states.shape[2:]), length)


class KeyValueCache:
    """The keys and values of the positions that a self-attention has seen so far in decoding.

    New positions are written into the spare end of a buffer that copies of a cache share: the first copy to append uses
    the space, and any other moves to a buffer of its own, so that a cache's states never change. They carry no gradient.

    Args:
        states: Keys and values of each row and position.

    Attributes:
        length: Number of positions so far.
    """

    def __init__(self, states: Float[Tensor, "B L 2 H K"]) -> None:
        self.length = states.shape[1]
        self._buffer = _Buffer(states, self.length)

    @classmethod
    def _of(cls, buffer: _Buffer, length: int) -> KeyValueCache:
        cache = cls.__new__(cls)
        cache.length, cache._buffer = length, buffer
        return cache

    @property
    def states(self) -> Float[Tensor, "B L 2 H K"]:
        """Keys and values of each row and position so far, as a view."""
        return self._buffer.states[:, : self.length]

    def append(self, states: Float[Tensor, "B 1 2 H K"]) -> None:
        """Append one position."""
        if self._buffer.used > self.length or self.length == self._buffer.states.shape[1]:
            previous, self._buffer = self.states, _Buffer.like(self.states, len(states), self.length)
            self._buffer.states[:, : self.length] = previous
        self._buffer.states[:, self.length] = states[:, 0].detach()
        self.length += 1
        self._buffer.used = self.length

    def copy(self) -> KeyValueCache:
        """Return an independent cache; states are copied only once both have been appended to."""
        return self._of(self._buffer, self.length)

    def select(self, rows: Int[Tensor, " R"]) -> KeyValueCache:
        """Return the cache of the given rows, in that order."""
        buffer = _Buffer.like(self._buffer.states, len(rows), self.length)
        torch.index_select(self.states, 0, rows, out=buffer.states[:, : self.length])
        return self._of(buffer, self.length)

    @property
    def heads(self) -> tuple[Float[Tensor, "B H L K"], Float[Tensor, "B H L K"]]:
        """Keys and values by head, as `attend` takes them, as views."""
        keys, values = self.states.transpose(1, 3).unbind(2)
        return keys, values
