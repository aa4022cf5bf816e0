"""Laws of the loader: a position is enough to go on, whatever the workers, ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest
import torch

from etude.data.loader import PlanLoader, PlanSampler, Slice
from etude.data.plan import Plan
from etude.data.sizes import BatchSize
from etude.errors import DataError
from etude.types import ClassificationBatch
from etude.untrusted import BrokenFileError

LENGTHS = np.random.default_rng(0).integers(2, 23, 61)


class Numbers:
    """Examples whose batch says which they are."""

    lengths = LENGTHS
    counts = np.ones(61, np.int64)

    def batch(self, part: Slice) -> ClassificationBatch:
        ids = torch.from_numpy(part.examples.astype(np.int64))
        grid = torch.full((len(ids), 1), part.epoch)
        return ClassificationBatch(grid, grid >= 0, -ids if part.filler else ids, part.denominator, ids)


def plan(epoch: int) -> Plan:
    return Plan.make(LENGTHS, seed=5, epoch=epoch, batch=BatchSize(tokens=97))


def loader(rank: int = 0, world: int = 1, micro_batches: int = 1, workers: int = 0) -> PlanLoader:
    return PlanLoader(Numbers(), PlanSampler(plan, rank=rank, world=world, micro_batches=micro_batches), workers)


def epoch_of(source: Iterable[Any]) -> list[tuple[int, tuple[int, ...]]]:
    return [(int(batch.tokens[0, 0]), tuple(batch.ids.tolist())) for batch in source]


def test_epochs_follow_each_other_in_orders_of_their_own() -> None:
    source = loader()
    first, second = epoch_of(source), epoch_of(source)
    assert {epoch for epoch, _ in first} == {0}
    assert {epoch for epoch, _ in second} == {1}
    assert [ids for _, ids in first] != [ids for _, ids in second]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_loader_put_to_any_position_yields_the_rest(workers: int, micro_batches: int) -> None:
    whole = loader(micro_batches=micro_batches)
    rest = epoch_of(whole) + epoch_of(whole)
    interrupted = loader(micro_batches=micro_batches, workers=workers)
    steps = plan(0).steps
    stop = steps // 2 * micro_batches
    for count, _ in enumerate(interrupted, start=1):
        if count == stop:
            break
    state = interrupted.state_dict()
    assert state == {"epoch": 0, "step": steps // 2}
    continued = loader(micro_batches=micro_batches, workers=workers)
    continued.load_state_dict(state)
    assert epoch_of(continued) + epoch_of(continued) == rest[stop:]


def test_the_position_after_the_last_batch_is_the_next_epoch() -> None:
    source = loader()
    seen = [source.state_dict() for _ in source]
    assert seen[-1] == {"epoch": 1, "step": 0}


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 2), (2, 1), (2, 4), (5, 7)])
def test_ranks_and_micro_batches_share_the_same_steps(world: int, micro_batches: int) -> None:
    alone = [set(ids) for _, ids in epoch_of(loader())]
    ranks = [cast(list[ClassificationBatch], list(loader(rank, world, micro_batches))) for rank in range(world)]
    for step, together in enumerate(alone):
        parts = [batch for rank in ranks for batch in rank[step * micro_batches : (step + 1) * micro_batches]]
        real = [int(i) for batch in parts for i in batch.ids if int(batch.labels[0]) >= 0 or int(batch.ids[0]) == 0]
        counted = [i for i in real if i in together]
        assert set(counted) == together
        assert {batch.step_count for batch in parts} == {len(together)}


def test_workers_change_nothing() -> None:
    assert epoch_of(loader(workers=0)) == epoch_of(loader(workers=2))


class Unreadable(Numbers):
    """Numbers of which one cannot be read."""

    def batch(self, part: Slice) -> ClassificationBatch:
        if 30 in part.examples:
            raise BrokenFileError("shard", "is missing", "copy it anew")
        return super().batch(part)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_reading_fails_the_last_step_is_whole_and_the_error_is_one_line(workers: int) -> None:
    source = PlanLoader(Unreadable(), PlanSampler(plan, rank=0, world=1, micro_batches=3), workers)
    read = 0
    with pytest.raises(DataError) as raised:
        for _ in source:
            read += 1
    source.end_workers()
    assert str(raised.value) == "shard is missing; copy it anew"
    whole = next(step for step in range(plan(0).steps) if 30 in plan(0).examples(step))
    assert read == whole * 3
    assert source.state_dict() == {"epoch": 0, "step": whole}
