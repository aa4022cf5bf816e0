"""What self-attention remembers while decoding.

Axes: B rows, L positions so far, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SPARE = 8
"""Positions for which room is made at once."""


@dataclass
class _Room:
    """Where keys and values are written.

    Attributes:
        states: For each row and position; those that are not taken hold anything.
        taken: Positions that belong to somebody.
    """

    states: Float[Tensor, "B L 2 H K"]
    taken: int

    @classmethod
    def like(cls, states: Float[Tensor, "B L 2 H K"], rows: int, length: int) -> _Room:
        """Return room for `length` positions of so many rows and for more to come."""
        return cls(states.new_empty(rows, length + SPARE, *states.shape[2:]), length)


class KeyValueCache:
    """The keys and values of the positions that a self-attention has seen so far, while decoding.

    Positions are written into spare room behind those that there are, which copies of this object share: the first to
    append takes the room, another one moves out. So nobody's states ever change. No gradient flows through them.

    Args:
        states: For each row and position, its keys and its values.

    Attributes:
        length: Positions so far.
    """

    def __init__(self, states: Float[Tensor, "B L 2 H K"]) -> None:
        self.length = states.shape[1]
        self._room = _Room(states, self.length)

    @classmethod
    def _inside(cls, room: _Room, length: int) -> KeyValueCache:
        inside = cls.__new__(cls)
        inside.length, inside._room = length, room
        return inside

    @property
    def states(self) -> Float[Tensor, "B L 2 H K"]:
        """For each row and position so far, its keys and its values: a view."""
        return self._room.states[:, : self.length]

    def append(self, states: Float[Tensor, "B 1 2 H K"]) -> None:
        """Add one position."""
        if self._room.taken > self.length or self.length == self._room.states.shape[1]:
            seen, self._room = self.states, _Room.like(self.states, len(states), self.length)
            self._room.states[:, : self.length] = seen
        self._room.states[:, self.length] = states[:, 0].detach()
        self.length += 1
        self._room.taken = self.length

    def copy(self) -> KeyValueCache:
        """Return an object that goes its own way from here on; nothing is copied before it has to be."""
        return self._inside(self._room, self.length)

    def select(self, rows: Int[Tensor, " R"]) -> KeyValueCache:
        """Return those of the given rows, in that order, with room for more."""
        room = _Room.like(self._room.states, len(rows), self.length)
        torch.index_select(self.states, 0, rows, out=room.states[:, : self.length])
        return self._inside(room, self.length)

    @property
    def heads(self) -> tuple[Float[Tensor, "B H L K"], Float[Tensor, "B H L K"]]:
        """Keys and values as `attend` takes them: views."""
        keys, values = self.states.transpose(1, 3).unbind(2)
        return keys, values
