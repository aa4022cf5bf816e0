"""The row of ids that an encoder reads of one text or two, and their truncation to its length."""

from __future__ import annotations

from collections.abc import Sequence


def lengths_within(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths to which both texts of a pair are truncated.

    They are what is left if tokens are removed one by one from the longer text, from the second if both are equally long. A
    text of at most half the room stays whole.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: Most tokens of both together.
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
    """Return one text or two, truncated to the room; two texts to the lengths of `lengths_within`."""
    if len(texts) == 1:
        return [texts[0][:room]]
    first, second = texts
    lengths = lengths_within(len(first), len(second), room)
    return [first[: lengths[0]], second[: lengths[1]]]


def joined(texts: Sequence[Sequence[int]], bos: int, eos: int) -> list[int]:
    """Return texts as one row: bos before the first, eos after each."""
    return [bos, *(token for text in texts for token in (*text, eos))]
