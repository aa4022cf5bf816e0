"""A plan that is computed a pool at a time: it stores where each pool begins, and no order of the examples.

The examples stand in a row, in an order that is a function of the position. The row is cut into pools that have equally many
steps each; within a pool, examples are sorted by length and cut into steps of equal cost, and the steps are shuffled.

Axes: N examples of the epoch, P pools, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Real

from etude.data.order.permutation import KeyedPermutation
from etude.data.plan import Counts, EpochPlan, Plan, by_length, equal_cuts, random_keys, shuffle_steps
from etude.data.sizes import BatchSize
from etude.seeding import mix

AT_ONCE = 1 << 20
"""Examples whose costs are looked up together, on the way through the row."""

REMEMBERED = 2
"""Pools that are kept: the one that is trained on, and another that somebody looks at."""

Row = Callable[[Int[np.ndarray, " n"]], Int[np.ndarray, " n"]]
"""Function from positions in the row to examples."""


@dataclass(frozen=True)
class KeyedPlan(EpochPlan):
    """The order of an epoch as a function, and the places where its pools begin.

    Attributes:
        row: Example at each position.
        lengths: Real tokens of each example; [N, sides] for source and target.
        bounds: [P + 1] position at which each pool begins, and the end.
        spent: [P + 1] real tokens before each of them.
        steps_of_pool: Steps of a pool; the last may have fewer.
        number: S, the steps of the epoch.
        by_cost: Whether steps have equal tokens; otherwise, equally many examples.
        key: Chooses the order of the steps in each pool.
        counts_of: As in `Plan`.
    """

    row: Row
    lengths: Int[np.ndarray, "all ..."]
    bounds: Int[np.ndarray, " P+1"]
    spent: Int[np.ndarray, " P+1"]
    steps_of_pool: int
    number: int
    by_cost: bool
    key: int
    counts_of: Counts
    _pools: dict[int, Plan] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def make(
        cls,
        lengths: Int[np.ndarray, "all ..."],
        *,
        seed: int,
        epoch: int,
        batch: BatchSize,
        counts: Real[np.ndarray, " all"] | Counts,
        row: Row | None = None,
        size: int | None = None,
        steps: int | None = None,
    ) -> KeyedPlan:
        """Plan an epoch: walks along the row find the pools and their tokens.

        Args:
            lengths: Real tokens of each example; [N, 2] for source and target.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            batch: Size of a global batch, and of a pool.
            counts: Share of each example in the denominator of the loss, or a function for it.
            row: Example at each position; None: a permutation of all examples that seed and epoch choose.
            size: N, if there is a row.
            steps: S, where it may not depend on what is in the row; None: as many as the batch size makes.

        Raises:
            ValueError: If there are no examples, or the batch has no pool.
        """
        size = len(lengths) if size is None else size
        if not size or batch.pool is None:
            raise ValueError(f"a keyed plan needs examples and a pool, not {size} and {batch.pool}")
        key = mix("keyed", seed, epoch)
        row = KeyedPermutation(size, key) if row is None else row
        total, longest = _totals(row, lengths, size)
        steps = batch.steps_of(size, total, longest) if steps is None else steps
        ends = np.minimum(np.arange(-(-steps // batch.pool) + 1) * batch.pool, steps)
        by_cost = batch.examples is None
        bounds = ends * size // steps
        if by_cost:
            bounds = _none_empty(_cuts(row, lengths, size, ends * total // steps), ends)
        counts_of = counts.__getitem__ if isinstance(counts, np.ndarray) else counts
        return cls(row, lengths, bounds, _spent(row, lengths, bounds), batch.pool, steps, by_cost, key, counts_of)

    @property
    def steps(self) -> int:
        """Number of steps of the epoch."""
        return self.number

    @property
    def tokens(self) -> int:
        """Real tokens of the epoch."""
        return int(self.spent[-1])

    def parts(self) -> Iterator[Plan]:
        """Yield the plan of each pool."""
        for pool in range(len(self.bounds) - 1):
            yield self._pool(pool)

    def located(self, step: int) -> tuple[Plan, int]:
        """Return the plan of a step's pool, and the step's number in it."""
        pool, inner = divmod(range(self.number)[step], self.steps_of_pool)
        return self._pool(pool), inner

    def tokens_before(self, step: int) -> int:
        """Return the real tokens of the steps before this one."""
        if step == self.number:
            return self.tokens
        plan, inner = self.located(step)
        return int(self.spent[step // self.steps_of_pool]) + plan.tokens_before(inner)

    def _pool(self, pool: int) -> Plan:
        """Return the plan of a pool; the last ones are remembered."""
        if pool not in self._pools:
            for older in [*self._pools][: 1 - REMEMBERED or None]:
                del self._pools[older]
            self._pools[pool] = self._sorted(pool)
        return self._pools[pool]

    def _sorted(self, pool: int) -> Plan:
        examples = self.row(np.arange(*self.bounds[pool : pool + 2]))
        sides = _sides(self.lengths, examples)
        sort = by_length(sides, np.arange(len(examples), dtype=np.uint64))
        order, cost = examples[sort], sides.sum(axis=1)[sort]
        first = pool * self.steps_of_pool
        steps = min(self.steps_of_pool, self.number - first)
        starts = equal_cuts(cost, steps, by_cost=self.by_cost)
        if self.by_cost:
            starts = _none_empty(starts, np.arange(steps + 1))
        order, starts = shuffle_steps(order, starts, random_keys(steps, mix("steps", self.key, pool)))
        return Plan(order, _sides(self.lengths, order).sum(axis=1), starts, self.counts_of)


def _sides(lengths: Int[np.ndarray, "all ..."], examples: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n sides"]:
    return lengths[examples].reshape(len(examples), -1)


def _costs(row: Row, lengths: Int[np.ndarray, "all ..."], size: int) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
    """Yield the costs along the row, some at a time, with the position of the first of them."""
    for start in range(0, size, AT_ONCE):
        yield start, _sides(lengths, row(np.arange(start, min(start + AT_ONCE, size)))).sum(axis=1)


def _totals(row: Row, lengths: Int[np.ndarray, "all ..."], size: int) -> tuple[int, int]:
    """Return the tokens of all examples of the row, and those of the longest."""
    if isinstance(row, KeyedPermutation):  # it has every example, whose order does not matter here
        total = longest = 0
        for start in range(0, size, AT_ONCE):
            cost = lengths[start : start + AT_ONCE].reshape(-1, lengths[0].size).sum(axis=1)
            total, longest = total + int(cost.sum()), max(longest, int(cost.max()))
        return total, longest
    costs = [(int(cost.sum()), int(cost.max())) for _, cost in _costs(row, lengths, size)]
    return sum(total for total, _ in costs), max(longest for _, longest in costs)


def _cuts(
    row: Row, lengths: Int[np.ndarray, "all ..."], size: int, shares: Int[np.ndarray, " P+1"]
) -> Int[np.ndarray, " P+1"]:
    """Return the positions up to which the row's tokens are within growing shares of them."""
    cuts, before = np.zeros(len(shares), np.int64), 0
    for start, cost in _costs(row, lengths, size):
        spent = before + np.cumsum(cost)
        here = slice(*np.searchsorted(shares, (before, spent[-1]), side="right"))
        cuts[here] = start + np.searchsorted(spent, shares[here], side="right")
        before = int(spent[-1])
    cuts[-1] = size
    return cuts


def _spent(row: Row, lengths: Int[np.ndarray, "all ..."], bounds: Int[np.ndarray, " P+1"]) -> Int[np.ndarray, " P+1"]:
    """Return the tokens of the row before each bound."""
    found, before = np.zeros(len(bounds), np.int64), 0
    for start, cost in _costs(row, lengths, int(bounds[-1])):
        spent = np.cumsum(cost)
        here = slice(*np.searchsorted(bounds, (start, start + len(cost)), side="right"))
        found[here] = before + spent[bounds[here] - start - 1]
        before += int(spent[-1])
    return found


def _none_empty(cuts: Int[np.ndarray, " n"], numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Move cuts so far that between any two there are as many examples as steps, at least."""
    later = np.maximum.accumulate(cuts - numbers) + numbers
    return np.minimum(later, cuts[-1] - (numbers[-1] - numbers))
