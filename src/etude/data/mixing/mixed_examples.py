"""Examples of several parts under one numbering, and batches that hold rows of any of them.

Axes: A parts, N numbers, n some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Real

from etude.data.loader import MixableExamples, Slice
from etude.data.order.draws import grouped


class Numbered(NamedTuple):
    """Some numbers as examples of their parts.

    Attributes:
        parts: [n] part of each.
        epochs: [n] epoch of that part.
        examples: [n] example of that part.
    """

    parts: Int[np.ndarray, " n"]
    epochs: Int[np.ndarray, " n"]
    examples: Int[np.ndarray, " n"]


class Numbering:
    """Numbers of the examples of all parts: those of the first part come first, each part as often as an epoch meets it.

    An epoch of the mixture may go on from one epoch of a part to the next: an example that it reads twice has two numbers.

    Args:
        sizes: [A] examples of each part.
        each: [A] examples of each part that an epoch of the mixture reads; 0: every example once, in any epoch.

    Attributes:
        sizes: [A] examples of each part.
        times: [A] epochs of each part that an epoch of the mixture touches at most.
        starts: [A + 1] first number of each part, and the end.
    """

    def __init__(self, sizes: Sequence[int], each: Sequence[int]) -> None:
        self.sizes, self._each = np.array(sizes, np.int64), np.array(each, np.int64)
        whole, rest = np.divmod(self._each, self.sizes)
        # Of what is left over, the first example may be the last one of an epoch.
        self.times = np.maximum(1, np.where(rest == 0, whole, (self._each + self.sizes - 2) // self.sizes + 1))
        self.starts = np.concatenate(([0], np.cumsum(self.sizes * self.times)))

    def _first(self, epoch: int) -> Int[np.ndarray, " A"]:
        """Return the epoch of each part in which an epoch of the mixture begins."""
        return epoch * self._each // self.sizes

    def of(
        self, parts: Int[np.ndarray, " n"], epochs: Int[np.ndarray, " n"], examples: Int[np.ndarray, " n"], epoch: int
    ) -> Int[np.ndarray, " n"]:
        """Return the numbers, in an epoch of the mixture, of examples in epochs of their parts."""
        return self.starts[parts] + (epochs - self._first(epoch)[parts]) * self.sizes[parts] + examples

    def read(self, numbers: Int[np.ndarray, " n"], epoch: int) -> Numbered:
        """Return what numbers mean in an epoch of the mixture."""
        parts = np.searchsorted(self.starts, numbers, side="right") - 1
        later, examples = np.divmod(numbers - self.starts[parts], self.sizes[parts])
        return Numbered(parts, self._first(epoch)[parts] + later, examples)

    def range_of(self, part: int) -> range:
        """Return the numbers of a part."""
        return range(int(self.starts[part]), int(self.starts[part + 1]))


class MixedExamples(MixableExamples):
    """The examples of several parts.

    Attributes:
        lengths: [N] or [N, sides], as in the parts.
        counts: [N], as in the parts.
        numbering: What the numbers mean.

    Args:
        parts: [A] the examples of each part.
        each: [A] as in `Numbering`.
    """

    def __init__(self, parts: Sequence[MixableExamples], each: Sequence[int]) -> None:
        self._parts = list(parts)
        self.numbering = Numbering([len(part.counts) for part in parts], each)
        times = self.numbering.times
        self.lengths = np.concatenate([part.lengths for part, n in zip(parts, times, strict=True) for _ in range(n)])
        self.counts = np.concatenate([part.counts for part, n in zip(parts, times, strict=True) for _ in range(n)])

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[Any]:
        """Return what a batch needs of each example: the row that its part gives in the part's own epoch."""
        rows = [None] * len(examples)
        numbered = self.numbering.read(examples, epoch)
        for (part, own_epoch), places in grouped(numbered.parts, numbered.epochs):
            found = self._parts[part].rows(numbered.examples[places], own_epoch)
            for place, row in zip(places, found, strict=True):
                rows[place] = row
        return rows

    def collate(self, rows: Sequence[Any], part: Slice) -> Any:
        """Return the padded batch of rows of any parts."""
        return self._parts[0].collate(rows, part)

    def counts_in(
        self, epoch: int, of_part: Callable[[int, int], Callable[[Any], Any]]
    ) -> Callable[[Int[np.ndarray, " n"]], Real[np.ndarray, " n"]]:
        """Return the function from numbers to shares of the denominator in an epoch of the mixture.

        Args:
            epoch: Epoch of the mixture.
            of_part: The same function of a part, given its number and its own epoch.
        """

        def counted(numbers: Int[np.ndarray, " n"]) -> Real[np.ndarray, " n"]:
            numbered, found = self.numbering.read(numbers, epoch), np.empty(len(numbers), self.counts.dtype)
            for (part, own_epoch), places in grouped(numbered.parts, numbered.epochs):
                found[places] = of_part(part, own_epoch)(numbered.examples[places])
            return found

        return counted
