"""How one text or two become the row that an encoder reads, and share the room that it has."""

from __future__ import annotations

from collections.abc import Sequence


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


def cut_within(texts: Sequence[Sequence[int]], room: int) -> list[Sequence[int]]:
    """Return the beginnings of one text or two that fit: as many tokens of each as `lengths_within` says."""
    if len(texts) == 1:
        return [texts[0][:room]]
    first, second = texts
    kept = lengths_within(len(first), len(second), room)
    return [first[: kept[0]], second[: kept[1]]]


def joined(texts: Sequence[Sequence[int]], bos: int, eos: int) -> list[int]:
    """Return texts as one row: bos before the first, eos behind each."""
    return [bos, *(token for text in texts for token in (*text, eos))]
