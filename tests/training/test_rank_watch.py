"""The watch over ranks: which one is late, what is said of it, and that processes which hang end."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st

from etude.training.launch import LOST
from etude.training.rank_watch import (
    RankLostError,
    RankPlace,
    RankWatch,
    detecting_lost_ranks,
    explained,
    late_ranks,
    waits,
)

PLACES = st.builds(RankPlace, st.integers(0, 3), st.just("at step 5"), st.just("f (a.py:1)"), st.booleans())


@given(st.lists(PLACES, min_size=2, max_size=5))
def test_who_passed_fewest_places_is_late_or_of_equals_who_does_not_wait(places: list[RankPlace]) -> None:
    late = late_ranks(dict(enumerate(places)))
    assert late
    fewest = min(place.passed for place in places)
    assert all(places[rank].passed == fewest for rank in late)
    if any(place.passed > fewest for place in places):
        assert late == [rank for rank, place in enumerate(places) if place.passed == fewest]
    elif not all(place.waits for place in places):
        assert late == [rank for rank, place in enumerate(places) if not place.waits]
    else:
        assert len(late) == len(places)


def test_the_line_names_ranks_places_and_the_way_on() -> None:
    places = {
        0: RankPlace(9, "in the backward pass of step 5", "backward (base.py:7)", waits=True),
        1: RankPlace(8, "in the forward pass of step 5", "read (mine.py:12)", waits=False),
        2: RankPlace(),
    }
    assert explained(places, "30min", Path("outputs/x")) == (
        "rank 2 of 3 kept the others waiting for 30min (trainer.timeout): rank 2 has told nothing; rank 0 waits in the backward "
        "pass of step 5, in backward (base.py:7); rank 1 is in the forward pass of step 5, in read (mine.py:12); mend what "
        "hangs there, or write a longer trainer.timeout, and continue with: etude resume outputs/x"
    )
    stuck = dict.fromkeys(range(9), places[0])
    assert explained(stuck, "3s", Path("x")).startswith(
        "no rank has come further for 3s (trainer.timeout): rank 0 waits "
    )
    assert len(explained(stuck, "3s", Path("x"))) < 500
    assert "ranks 0, 1, 2, 3 and 4 more of 9" in explained({**stuck, 8: places[0]._replace(passed=99)}, "3s", Path("x"))


def test_a_frame_of_ones_own_does_not_wait() -> None:
    assert not waits(sys._getframe())
    assert not waits(None)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def in_ranks(function: Callable[..., None], count: int, *arguments: Any) -> list[int | None]:
    """Call a function in processes that form a group; return their exit codes."""
    context = multiprocessing.get_context("fork")
    port = free_port()
    ranks = [context.Process(target=_as_rank, args=(function, rank, count, port, *arguments)) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
        process.join()
    return [process.exitcode for process in ranks]


def _as_rank(function: Callable[..., None], rank: int, count: int, port: int, *arguments: Any) -> None:
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=20))
    function(rank, *arguments)
    os._exit(0)


def meet_too_late(rank: int, folder: Path, seconds: float) -> None:
    """Rank 1 sleeps before it meets the others."""
    sys.stderr = (folder / f"said{rank}").open("w")
    watch = RankWatch(1.0, "1s", folder)
    watch.start()
    watch.note("at step 1")
    if rank == 1:
        time.sleep(seconds)
    watch.note("at step 2")
    try:
        torch.distributed.barrier()
    finally:
        watch.stop()
    torch.distributed.barrier()


@pytest.mark.parametrize("count", [2, 3])
def test_a_rank_that_does_not_come_ends_all_and_is_named_once(tmp_path: Path, count: int) -> None:
    assert in_ranks(meet_too_late, count, tmp_path, 3600.0) == [LOST] * count
    said = "".join((tmp_path / f"said{rank}").read_text() for rank in range(count))
    assert said.count("\n") == 1
    assert f"rank 1 of {count} kept the others waiting for 1s" in said
    assert "rank 1 is at step 1, in meet_too_late (test_rank_watch.py:" in said
    assert "rank 0 waits at step 2" in said


def test_a_rank_that_comes_in_time_ends_nothing(tmp_path: Path) -> None:
    assert in_ranks(meet_too_late, 3, tmp_path, 0.3) == [0, 0, 0]
    assert all((tmp_path / f"said{rank}").read_text() == "" for rank in range(3))


def wait_in_vain(rank: int, folder: Path) -> None:
    """Rank 1 waits for rank 0 in an operation whose own time is short."""
    group = torch.distributed.new_group(timeout=timedelta(seconds=1))
    if rank == 0:
        time.sleep(2.5)
        return
    try:
        with detecting_lost_ranks(folder):
            torch.distributed.all_reduce(torch.ones(2), group=group)
    except RankLostError as error:
        (folder / "said").write_text(json.dumps(str(error)))


def test_an_operation_that_waits_too_long_is_one_line(tmp_path: Path) -> None:
    in_ranks(wait_in_vain, 2, tmp_path)
    said = json.loads((tmp_path / "said").read_text())
    assert said.startswith("rank 1 waited for another rank longer than trainer.timeout allows, in wait_in_vain (")
    assert "etude resume" in said


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), detecting_lost_ranks(tmp_path):
        raise RuntimeError("something else timed out")
    with pytest.raises(RankLostError, match="rank 0 lost another rank"), detecting_lost_ranks(tmp_path):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")
