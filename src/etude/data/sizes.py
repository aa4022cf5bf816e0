"""How large a step is, and how much of each split is used: what a configuration says of sizes, and a plan goes by.

Nothing heavy is imported, so that a configuration can be checked before NumPy and torch are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class BatchSize:
    """The global batch of one step: one of two sizes, and what it is drawn from."""

    tokens: int | None = None
    """At most so many real tokens in a batch: of a pair, those of source and target together."""
    examples: int | None = None
    """So many examples in a batch."""
    pool: int | None = None
    """The examples of so many steps, drawn at random, are sorted by length together. 1: a batch is a random sample. None:
    all are sorted, so that a batch has texts of one length, and where length tells of the label or the genre, fewer labels
    and genres than the data."""

    def steps(self, cost: npt.NDArray) -> int:  # type: ignore[type-arg]
        """Return the number of steps in an epoch over examples that cost [N] tokens each."""
        if self.examples is not None:
            return -(-len(cost) // self.examples)
        total = int(cost.sum())
        # No step may be smaller than the longest example, or some step would be left empty.
        return max(1, min(-(-total // (self.tokens or 1)), total // int(cost.max())))


@dataclass(frozen=True)
class Limit:
    """How many examples of each split are used; None: all.

    Training examples are drawn by the run's seed. Those of the other splits are the same in every run, spread evenly over
    the split, since a file may be sorted by its labels.
    """

    train: int | None = None
    """Of the training split."""
    val: int | None = None
    """Of the validation split."""
    test: int | None = None
    """Of the test split."""
    overfit: bool = False
    """Validate and test on the training examples."""
