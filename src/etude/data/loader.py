"""Batches of one rank in the order of the plan, with a position that a checkpoint can hold.

Lightning saves the training loader's `state_dict()` in its checkpoints and calls `load_state_dict` before the first batch
of a resumed run. Seeking is O(1): the plan is only asked for the steps that are left.

Axes: B examples of a batch, L positions, N examples of a split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int, Real
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from etude.data.plan import EpochPlan
from etude.errors import DataError
from etude.types import Batch


def pad(rows: Sequence[Int[np.ndarray, " n"]], value: int) -> Int[Tensor, "B L"]:
    """Stack rows [n] into [B, L], L the longest n, with `value` after the shorter ones."""
    grid = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(grid, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(grid)


def token_mask(rows: Sequence[Int[np.ndarray, " n"]]) -> Bool[Tensor, "B L"]:
    """Return the mask [B, L] of `pad(rows)`: True at tokens, False at padding."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


def framed(row: Int[np.ndarray, " n"], before: int | None, after: int | None) -> Int[np.ndarray, " m"]:
    """Return ids [n] as int64 with one id before and one after them; None: none."""
    start = [] if before is None else [before]
    end = [] if after is None else [after]
    return np.concatenate((start, row, end)).astype(np.int64)


class Slice(NamedTuple):
    """The examples of one micro-batch on one rank.

    Attributes:
        examples: Indices of the examples; a single placeholder if `filler` is set.
        epoch: The epoch, for randomness that belongs to (seed, epoch, example).
        denominator: Divisor of the whole step's loss.
        filler: Whether the step has no example for this slice, whose batch then counts for nothing.
    """

    examples: Int[np.ndarray, " n"]
    epoch: int
    denominator: float
    filler: bool


class Examples(Protocol):
    """The examples of a split, and how they become batches.

    Attributes:
        lengths: [N] tokens of each example, or [N, sides] for each of its sides.
        counts: [N] share of each example in the denominator of its step's loss.
    """

    lengths: Int[np.ndarray, N] | Int[np.ndarray, "N sides"]
    counts: Real[np.ndarray, " N"]

    def batch(self, part: Slice) -> Any:
        """Return the padded batch of a slice: a named tuple with `step_count` and `ids` (-1 in a filler)."""
        ...


class MixableExamples(ABC):
    """Examples whose batches are made of rows, so that those of several corpora can stand in one batch.

    Attributes:
        lengths: As in `Examples`.
        counts: As in `Examples`.
    """

    lengths: Int[np.ndarray, N] | Int[np.ndarray, "N sides"]
    counts: Real[np.ndarray, " N"]

    @abstractmethod
    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[Any]:
        """Return what a batch needs of each example in an epoch."""

    @abstractmethod
    def collate(self, rows: Sequence[Any], part: Slice) -> Any:
        """Return the padded batch of the rows of a slice, which may be those of other examples of the same kind."""

    def batch(self, part: Slice) -> Any:
        """Return the padded batch of a slice."""
        return self.collate(self.rows(part.examples, part.epoch), part)


class PlanSampler(Sampler[Slice]):
    """The slices of one rank in an epoch, from the current step on.

    Attributes:
        epoch: The current epoch.
        step: The step in it that comes next.

    Args:
        plan: Plan of each epoch.
        rank: Rank of this process.
        world: Number of processes.
        micro_batches: Slices of each step on each process.
    """

    def __init__(self, plan: Callable[[int], EpochPlan], *, rank: int, world: int, micro_batches: int) -> None:
        self._plan = plan
        self.rank = rank
        self.world = world
        self.micro_batches = micro_batches
        self.epoch = 0
        self.step = 0

    def __len__(self) -> int:
        """Return the micro-batches of the whole epoch, even if it is resumed in its middle, as Lightning expects."""
        return self._plan(self.epoch).steps * self.micro_batches

    def __iter__(self) -> Iterator[Slice]:
        epoch = self.epoch
        plan = self._plan(epoch)
        for step in range(self.step, plan.steps):
            denominator = plan.count(step)
            for micro_batch in range(self.micro_batches):
                examples = plan.examples(step, self.rank, self.world, micro_batch, self.micro_batches)
                filler = not len(examples)
                stand_in = plan.examples(step)[:1]
                yield Slice(stand_in if filler else examples, epoch, denominator, filler)


class _Batches(Dataset[Any]):
    """A data set whose items are whole batches, addressed by slices.

    What a worker cannot read is an item, too: torch would raise its traceback as the message of another error.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, part: Slice) -> Batch | DataError:
        try:
            return self._examples.batch(part)
        except DataError as error:
            if get_worker_info() is None:
                raise
            return DataError(str(error))


def _unchanged(batch: Any) -> Any:
    return batch


class PlanLoader(DataLoader[Batch]):
    """A DataLoader over slices of the plan whose position can be saved and restored.

    Args:
        examples: The examples of the split.
        sampler: Slices of them.
        workers: Number of processes that make batches; 0: this one makes them.
    """

    def __init__(self, examples: Examples, sampler: PlanSampler, workers: int = 0) -> None:
        super().__init__(
            _Batches(examples),
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            persistent_workers=workers > 0,
        )
        self.slices = sampler

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield batches. They are counted here, in the main process: what workers have prefetched is not done yet.

        A step is begun when all of its batches are there: where reading fails, the last step is whole and can be saved.
        """
        slices = self.slices
        done = slices.step * slices.micro_batches
        total = len(slices)
        read = self._read()
        for batch in chain.from_iterable(iter(lambda: [*islice(read, slices.micro_batches)], [])):
            done += 1
            # The position after this batch is set before it is yielded: Lightning does not come back after the last one.
            ended = done == total
            slices.epoch, slices.step = (slices.epoch + ended, 0 if ended else done // slices.micro_batches)
            yield batch

    def _read(self) -> Iterator[Batch]:
        """Yield batches, and raise what a worker could not read."""
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch, and the step in it that comes next."""
        return {"epoch": self.slices.epoch, "step": self.slices.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self.slices.epoch, self.slices.step = state["epoch"], state["step"]

    def end_workers(self) -> None:
        """End the worker processes, which otherwise wait for the next epoch."""
        self._iterator = None


class BatchStream(Iterable[Batch]):
    """Batches for prediction. Lightning would rebuild a DataLoader there, around a sampler of its own.

    Args:
        loader: Source of the batches.
    """

    def __init__(self, loader: PlanLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)
