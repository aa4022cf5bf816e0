"""How two texts share the room that a model has for both."""

from __future__ import annotations


def lengths_within(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair are kept, so that both fit: the longer one loses its end.

    They are those that are left where one token after the other is taken from whichever text is longer, from the second
    where both are equally long. A text of at most half the room is kept whole.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: The most tokens of both together.
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if second <= half:
        return room - second, second
    if first <= half:
        return first, room - first
    return room - half, half
