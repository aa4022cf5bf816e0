"""The plan: the examples of each step of an epoch, as a pure function of (lengths, seed, epoch).

A step's batch is global. It is cut into slices of equal cost for ranks and micro-batches only when they are asked for, so
the order depends on neither, nor on workers or restarts. The examples are sorted by length, all of them or those of a pool,
and cut at equal shares of the total cost; then the steps are shuffled. So every epoch has the same number of steps, every
step costs the same, and the texts of a step have similar lengths, which avoids padding.

Axes: N examples, S steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Real, UInt64

from etude.data.sizes import BatchSize
from etude.seeding import mix

Array = np.ndarray

STEPS_AT_ONCE = 4096
"""Steps whose examples are put into their places together."""

Counts = Callable[[Int[Array, " n"]], Real[Array, " n"]]
"""Function from examples to their shares of the denominator of the loss."""


class EpochPlan(ABC):
    """The order of an epoch, and what of it is known before it starts: steps, tokens, the denominator of every loss."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps of the epoch."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Real tokens of the epoch."""

    @abstractmethod
    def parts(self) -> Iterator[Plan]:
        """Yield the plan in stored pieces of consecutive steps."""

    @abstractmethod
    def located(self, step: int) -> tuple[Plan, int]:
        """Return the stored piece that has a step, and its number in it."""

    @abstractmethod
    def tokens_before(self, step: int) -> int:
        """Return the real tokens of the steps before this one."""

    def examples(
        self, step: int, rank: int = 0, world: int = 1, micro_batch: int = 0, micro_batches: int = 1
    ) -> Int[Array, " n"]:
        """Return one slice of a step. Slices are disjoint, of equal cost, and together the batch.

        If a step has fewer examples than slices, some slices are empty.
        """
        part, inner = self.located(step)
        start, end = part.starts[inner : inner + 2]
        cuts = equal_cuts(part.cost[start:end], world * micro_batches, by_cost=True)
        slot = micro_batch * world + rank
        return part.order[start + cuts[slot] : start + cuts[slot + 1]]

    def count(self, step: int) -> float:
        """Return the denominator of the step's loss, over all ranks and micro-batches: an int if counts are."""
        part, inner = self.located(step)
        start, end = part.starts[inner : inner + 2]
        return part.counts_of(part.order[start:end]).sum().item()

    def only(self, steps: Sequence[int]) -> Plan:
        """Return a plan of some of these steps, in the given order; a step may be in it several times."""
        orders, costs, counts_of = list[Array](), list[Array](), self.located(0)[0].counts_of
        for step in steps:
            part, inner = self.located(step)
            start, end = part.starts[inner : inner + 2]
            orders.append(part.order[start:end])
            costs.append(part.cost[start:end])
        starts = np.concatenate(([0], np.cumsum([len(order) for order in orders])))
        return Plan(np.concatenate(orders), np.concatenate(costs), starts, counts_of)


@dataclass(frozen=True)
class Plan(EpochPlan):
    """A plan whose order is stored.

    Attributes:
        order: Examples in the order of training; within a step sorted by length.
        cost: Real tokens of each example of `order`.
        starts: Start of each step in `order`: step k is `order[starts[k]:starts[k + 1]]`.
        counts_of: Share of each example in the denominator of its step's loss: target tokens, masked tokens, one, or a
            weight.
    """

    order: Int[Array, " N"]
    cost: Int[Array, " N"]
    starts: Int[Array, " S+1"]
    counts_of: Counts

    @classmethod
    def make(
        cls,
        lengths: Int[Array, N] | Int[Array, "N sides"],
        *,
        seed: int,
        epoch: int,
        batch: BatchSize,
        counts: Real[Array, " N"] | Counts | None = None,
        shuffle: bool = True,
    ) -> Plan:
        """Plan an epoch.

        Args:
            lengths: Real tokens of each example; [N, 2] for source and target.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            batch: Size of a global batch.
            counts: Share of each example in the denominator of the loss, or a function for it; None: one each.
            shuffle: Whether steps are shuffled; in evaluation they stay in order of length.

        Raises:
            ValueError: If there are no examples.
        """
        if not len(lengths):
            raise ValueError(f"a plan needs examples; lengths has the shape {lengths.shape}")
        sides = lengths.reshape(len(lengths), -1)
        cost = sides.sum(axis=1)
        keys, steps = random_keys(len(sides), mix("order", seed, epoch)), batch.steps(cost)
        pool = batch.pool if shuffle else None
        order = by_length(sides, keys, None if pool is None else _pools(keys, pool, steps))
        starts = equal_cuts(cost[order], steps, by_cost=batch.examples is None)
        if pool is not None:  # a step may have examples of two pools
            order = order[
                by_length(sides[order], keys[order], np.repeat(np.arange(steps, dtype=np.int32), np.diff(starts)))
            ]
        if shuffle:
            order, starts = shuffle_steps(order, starts, random_keys(len(starts) - 1, mix("steps", seed, epoch)))
        each = np.ones(len(sides), np.int64) if counts is None else counts
        return cls(order, cost[order], starts, each.__getitem__ if isinstance(each, np.ndarray) else each)

    @property
    def steps(self) -> int:
        """Number of steps of the epoch."""
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        """Real tokens of the epoch."""
        return int(self.cost.sum())

    def parts(self) -> Iterator[Plan]:
        """Yield the plan itself."""
        yield self

    def located(self, step: int) -> tuple[Plan, int]:
        """Return the plan itself, and the step."""
        return self, step

    def tokens_before(self, step: int) -> int:
        """Return the real tokens of the steps before this one."""
        return int(self.cost[: self.starts[step]].sum())


def one_after_another(plans: Sequence[Plan], firsts: Sequence[int], counts: Real[Array, " N"]) -> Plan:
    """Return the plan of several parts of a split, one after the other: no step has examples of two.

    Args:
        plans: Plan of each part, whose examples are numbered from 0.
        firsts: Number of the first example of each part.
        counts: Share of each example of the split in the denominator of the loss.
    """
    ends = np.cumsum([0, *(len(plan.order) for plan in plans)])
    return Plan(
        np.concatenate([plan.order + first for plan, first in zip(plans, firsts, strict=True)]),
        np.concatenate([plan.cost for plan in plans]),
        np.concatenate([[0], *(plan.starts[1:] + end for plan, end in zip(plans, ends, strict=False))]),
        counts.__getitem__,
    )


def positions(plan: EpochPlan, lengths: Int[Array, "N ..."], steps: Iterable[int], slices: int) -> tuple[int, int]:
    """Return the real and the padded positions of some steps; of pairs, those of both sides.

    Args:
        plan: Plan of their epoch.
        lengths: Real tokens of each example; [N, 2] for source and target.
        steps: The steps, from 0.
        slices: Slices of a step: each is padded to its longest example.
    """
    sides = lengths.reshape(len(lengths), -1)
    real = padded = 0
    for step in steps:
        for part in range(slices):
            rows = sides[plan.examples(step, micro_batch=part, micro_batches=slices)]
            real += int(rows.sum())
            padded += len(rows) * int(rows.max(axis=0, initial=0).sum())
    return real, padded


def random_keys(count: int, key: int) -> UInt64[Array, " N"]:
    """Return raw output of Philox, which NumPy promises never to change, unlike its permutations (NEP 19)."""
    return np.asarray(np.random.Philox(key=key).random_raw(count))


def _pools(keys: UInt64[Array, " N"], pool: int, steps: int) -> Int[Array, " N"]:
    """Return the pool of each example: each has the examples of `pool` steps, except the last, which may have fewer."""
    places = np.empty(len(keys), np.int64)
    places[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return places * steps // (len(keys) * pool)


def by_length(
    sides: Int[Array, "N sides"], keys: UInt64[Array, " N"], groups: Int[Array, " N"] | None = None
) -> Int[Array, " N"]:
    """Return the order of the examples of each group, or of all, by the first side, then the second, then at random.

    The second side ascends and descends in turn, so that it does not jump where the first grows by one: on sentence pairs
    that halves the remaining padding in attention.
    """
    first, *others = sides.T
    others = [np.where(first % 2, -side, side) for side in others]
    return in_order(keys, *others, first, *(() if groups is None else (groups,)))


def in_order(*columns: Real[Array, " N"]) -> Int[Array, " N"]:
    """Return what `np.lexsort` does, the order by the last column, then the one before it, and so on, in less time.

    Lengths fit into 16 bits nearly always, and those NumPy sorts in linear time.
    """
    index = np.int32 if len(columns[0]) < 1 << 31 else np.int64
    order = np.argsort(columns[0], kind="stable").astype(index)
    for column in columns[1:]:
        lowest, highest = column.min(), column.max()
        if highest - lowest < 1 << 16:
            column = np.subtract(column, lowest, dtype=np.uint16, casting="unsafe")  # modulo 2^16, without a copy
        order = order[np.argsort(column[order], kind="stable")]
    return order.astype(np.int64)


def equal_cuts(cost: Int[Array, " N"], parts: int, *, by_cost: bool) -> Int[Array, " parts+1"]:
    """Return the cuts of a row of examples at equal shares of their cost, or of their number."""
    shares = np.arange(parts + 1)
    if not by_cost:
        return shares * len(cost) // parts
    spent = np.cumsum(cost)
    return np.searchsorted(spent, shares * spent[-1] // parts, side="right").astype(np.int64)


def shuffle_steps(
    order: Int[Array, " N"], starts: Int[Array, " S+1"], keys: UInt64[Array, " S"]
) -> tuple[Int[Array, " N"], Int[Array, " S+1"]]:
    """Put the steps in random order, each kept whole."""
    permutation = np.argsort(keys, kind="stable")
    sizes = np.diff(starts)[permutation]
    ends = np.concatenate(([0], np.cumsum(sizes)))
    shuffled = np.empty_like(order)
    # Some steps at a time: the places of all examples would take five times the memory of the order.
    for first in range(0, len(sizes), STEPS_AT_ONCE):
        some = slice(first, first + STEPS_AT_ONCE)
        begin, end = ends[first], ends[min(first + STEPS_AT_ONCE, len(sizes))]
        moved = np.repeat(starts[:-1][permutation[some]] - ends[:-1][some], sizes[some])
        shuffled[begin:end] = order[np.arange(begin, end) + moved]
    return shuffled, ends
