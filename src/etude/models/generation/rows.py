"""The rows of a search, and their parts, which a CPU searches side by side.

A search is a long chain of small operations. torch divides each of them among its threads, which wait for one another after
every one; the rows of a batch need not wait for one another, so that a thread for each part of them takes less time, above
all where other processes want the cores too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from etude.models.generation.constraint import Constraint
from etude.models.generation.hypothesis import CacheT, Hypothesis

SMALLEST_PART = 16
"""Rows that a part has at least. Smaller matrices are multiplied more slowly, and threads would wait for Python's lock."""


@dataclass(frozen=True)
class Rows:
    """The rows of a batch and the limits of their outputs.

    Attributes:
        bos: The token that each row goes on from.
        limits: Largest number of tokens that each row may predict, eos included.
        constraint: Tokens that may not be chosen; it also holds eos.
        keys: Keys of each row's random numbers.
    """

    bos: Int[Tensor, " B"]
    limits: Int[Tensor, " B"]
    constraint: Constraint
    keys: Sequence[int]

    def select(self, rows: Int[Tensor, " R"]) -> Rows:
        """Return the given rows, in that order; rows may be repeated or left out."""
        keys = [self.keys[row] for row in rows.tolist()]
        return Rows(self.bos[rows], self.limits[rows], self.constraint.select(rows), keys)


def search_parts(
    search: Callable[[CacheT, Rows], list[list[Hypothesis]]], start: CacheT, rows: Rows
) -> list[list[Hypothesis]]:
    """Search rows in as many parts as torch has threads, fewer of a small batch and a single one on a GPU.

    Args:
        search: Returns the outputs of each row of a part, given its cache; they do not depend on other rows.
        start: The model's cache before the first token of each row.
        rows: All rows.
    """
    threads, count = torch.get_num_threads(), len(rows.limits)
    parts = min(threads, count // SMALLEST_PART) if rows.limits.device.type == "cpu" else 1
    if parts <= 1:
        return search(start, rows)
    # Every part gets rows from the whole batch, whose order may be that of their lengths.
    places = [torch.arange(first, count, parts) for first in range(parts)]
    inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    precision = torch.get_autocast_dtype("cpu")

    def search_part(part: Int[Tensor, " R"]) -> list[list[Hypothesis]]:
        with ExitStack() as stack:  # these are settings of a thread
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.autocast("cpu", precision, autocast))
            return search(start.select(part), rows.select(part))

    torch.set_num_threads(threads // parts)  # also that of new threads
    try:
        with ThreadPoolExecutor(parts) as pool:
            found = list(pool.map(search_part, places))
    finally:
        torch.set_num_threads(threads)
    by_row = {
        row: outputs
        for part, of_part in zip(places, found, strict=True)
        for row, outputs in zip(part.tolist(), of_part, strict=True)
    }
    return [by_row[row] for row in range(count)]
