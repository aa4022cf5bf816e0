"""From the plan to batches on one rank, with a position that a checkpoint can hold.

Lightning saves `state_dict()` of the training loader in its checkpoints and calls `load_state_dict` before the first batch
of a continued run; a seek is O(1), since the plan is asked for later steps only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int, Real
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from etude.data.plan import Plan
from etude.types import Batch


def pad(rows: Sequence[Int[np.ndarray, " n"]], value: int) -> Int[Tensor, "B L"]:
    """Stack rows [n] into [B, L], L the longest n, with `value` behind the shorter ones."""
    grid = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(grid, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(grid)


def real(rows: Sequence[Int[np.ndarray, " n"]]) -> Bool[Tensor, "B L"]:
    """Return the mask [B, L] of `pad(rows)`: True where a row has a token."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


def framed(row: Int[np.ndarray, " n"], before: int | None, after: int | None) -> Int[np.ndarray, " m"]:
    """Return a row of ids [n] as int64 with one id before and one after it, each left out where None."""
    start = [] if before is None else [before]
    end = [] if after is None else [after]
    return np.concatenate((start, row, end)).astype(np.int64)


class Slice(NamedTuple):
    """What one micro-batch of one rank is made of.

    Attributes:
        examples: Which examples; one that stands in for none when `filler` is set.
        epoch: The epoch, for randomness that belongs to (seed, epoch, example).
        denominator: What the whole step's loss is divided by.
        filler: The step has fewer examples than slices: this one computes nothing that counts.
    """

    examples: Int[np.ndarray, " n"]
    epoch: int
    denominator: float
    filler: bool


class Examples(Protocol):
    """The examples of a split, and how they become batches."""

    lengths: Int[np.ndarray, N] | Int[np.ndarray, "N sides"]
    counts: Real[np.ndarray, " N"]

    def batch(self, part: Slice) -> Any:
        """Return the padded batch of a slice: a named tuple with `step_count` and `ids` (-1 in a filler)."""
        ...


class PlanSampler(Sampler[Slice]):
    """Yields the slices of one rank for the current epoch, from a given micro-batch on.

    Args:
        plan: The plan of an epoch.
        rank: Which process this is.
        world: How many processes there are.
        micro_batches: Slices of each step on each process.
    """

    def __init__(self, plan: Callable[[int], Plan], *, rank: int, world: int, micro_batches: int) -> None:
        self._plan = plan
        self.rank = rank
        self.world = world
        self.micro_batches = micro_batches
        self.epoch = 0
        self.step = 0

    def __len__(self) -> int:
        """All the micro-batches of an epoch, also when it is entered in its middle: Lightning adds those already done."""
        return self._plan(self.epoch).steps * self.micro_batches

    def __iter__(self) -> Iterator[Slice]:
        epoch = self.epoch
        plan = self._plan(epoch)
        for step in range(self.step, plan.steps):
            denominator = plan.count(step)
            for micro_batch in range(self.micro_batches):
                examples = plan.examples(step, self.rank, self.world, micro_batch, self.micro_batches)
                filler = not len(examples)
                stand_in = plan.order[plan.starts[step]][None]
                yield Slice(stand_in if filler else examples, epoch, denominator, filler)


class _Batches(Dataset[Batch]):
    """Lets a DataLoader fetch whole slices."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, part: Slice) -> Batch:
        return self._examples.batch(part)


def _as_it_is(batch: Any) -> Any:
    return batch


class PlanLoader(DataLoader[Batch]):
    """A DataLoader over a sampler of slices that knows, and can be told, where it is.

    Args:
        examples: The examples of the split.
        sampler: Their slices.
        workers: Processes that make batches; 0: this one.
    """

    def __init__(self, examples: Examples, sampler: PlanSampler, workers: int = 0) -> None:
        super().__init__(
            _Batches(examples),
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            persistent_workers=workers > 0,
        )
        self.slices = sampler

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Count here, in the main process: what workers have prefetched does not count as done."""
        slices = self.slices
        done = slices.step * slices.micro_batches
        total = len(slices)
        for batch in super().__iter__():
            done += 1
            # The position is that after this batch; Lightning never comes back after an epoch's last one.
            ended = done == total
            slices.epoch, slices.step = (slices.epoch + ended, 0 if ended else done // slices.micro_batches)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch, and the step in it."""
        return {"epoch": self.slices.epoch, "step": self.slices.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self.slices.epoch, self.slices.step = state["epoch"], state["step"]
