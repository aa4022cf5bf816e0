"""Sizes that a configuration states: the examples or tokens of a step, and the examples used of each split.

Nothing heavy is imported, so that a configuration is checked before NumPy and torch are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy.typing as npt


ShuffleName = Literal["stored", "keyed"]


@dataclass(frozen=True)
class BatchSize:
    """The global batch of one step: its size in tokens or in examples, and the pool it is drawn from."""

    tokens: int | None = None
    """Most real tokens of a batch; of a pair, those of source and target together."""
    examples: int | None = None
    """Examples of a batch."""
    pool: int | None = None
    """Steps whose examples are drawn at random and sorted by length together. 1: a batch is a random sample. None: all
    examples are sorted, so that the texts of a batch have the same length: if length correlates with label or genre, a
    batch is less diverse than the data."""
    shuffle: ShuffleName = "stored"
    """How an epoch is ordered. `stored`: by an array of all examples. `keyed`: by a permutation that is computed, and sorted
    a pool at a time, so that an epoch of any size takes the memory of a pool. The two are different orders."""

    def steps(self, cost: npt.NDArray) -> int:  # type: ignore[type-arg]
        """Return the number of steps in an epoch over examples that cost [N] tokens each."""
        return self.steps_of(len(cost), int(cost.sum()), int(cost.max()))

    def steps_of(self, rows: int, tokens: int, longest: int) -> int:
        """Return the number of steps in an epoch of so many examples and tokens, the longest example of so many."""
        if self.examples is not None:
            return -(-rows // self.examples)
        # If a step were smaller than the longest example, some step would be empty.
        return max(1, min(-(-tokens // (self.tokens or 1)), tokens // longest))


@dataclass(frozen=True)
class Limit:
    """The number of examples used of each split; None: all.

    Training examples are drawn by the run's seed. Those of the other splits are the same in every run, spread evenly over
    the split, since a file may be sorted by label.
    """

    train: int | None = None
    """Examples of the training split."""
    val: int | None = None
    """Examples of the validation split."""
    test: int | None = None
    """Examples of the test split."""
    overfit: bool = False
    """Whether to validate and test on the training examples."""
