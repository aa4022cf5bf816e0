"""Law 4: a run is one run. Killed at any instant and continued, it ends with the same bits."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs.conftest import TASKS
from tests.runs.killing import BATCH, EXACT, POINTS, Point, assert_same, begin, end, finish, kill_after, kill_at

WORKERS = "trainer.workers=2"


@pytest.fixture
def beginning(composed: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Begins a small run of a task, of the given name."""

    def begin_run(name: str, task: str, *more: str) -> Path:
        return begin(tmp_path / name, composed(task, *EXACT, BATCH[task], *more))

    return begin_run


SLOW = ("classification", "causal_lm", "masked_lm", "token_classification")
"""In the slow tests all are killed fifty times; here one of them is killed at a few points."""


@pytest.mark.parametrize("task", [pytest.param(task, marks=pytest.mark.slow if task in SLOW else ()) for task in TASKS])
def test_killed_it_is_the_same_run(beginning: Callable[..., Path], task: str) -> None:
    """One run killed at kinds of points in turn, each task at every third; then one, with workers, at random instants."""
    whole, by_points = beginning("whole", task), beginning("by-points", task)
    started = time.monotonic()
    finish(whole)
    duration = time.monotonic() - started
    mine = list(POINTS)[TASKS.index(task) :: len(TASKS)]
    points = {what: Point(POINTS[what][0], POINTS[what][1][0]) for what in mine}
    reached = [what for what, point in points.items() if kill_at(by_points, point)]
    assert reached == list(points)
    finish(by_points)
    assert_same(end(by_points), end(whole))

    at_random = beginning("at-random", task, WORKERS)
    for seconds in instants(task, duration, kills=2):
        kill_after(at_random, seconds)
    finish(at_random)
    assert_same(end(at_random), end(whole))


EVERYTHING = (
    "data.sampling={_target_:etude.data.subword_regularization.BPEDropout,source:0.1,target:0.2}",
    "task.consistency={_target_:etude.models.losses.consistency.RDrop,alpha:2.0}",
    "validate.metric=val/loss",
    "validate.mode=min",
    "stop={patience:2,min_delta:100.0}",
    "average={last:[2,3],best:[2]}",
    "optimizer.lr=0.05",
    "budget=40step",
)
"""Nothing is ever better by 100, so that it ends after the third validation; such steps are so long that averages win."""

AT_THE_END = (
    Point("etude.tasks.base:Task.training_step", 9),
    Point("etude.training.callbacks.early_stopping:StopWithoutProgress.on_validation_end", 2),
    Point("etude.training.fit:keep_best_average", 1),
    Point("etude.training.checkpoint_averaging:score", 2),
    Point("etude.checkpoints.checkpoint:write_file", 1),
    Point("etude.training.checkpoint_averaging:replace_link", 1),
)


@pytest.mark.slow
def test_killed_with_all_that_trains_well(beginning: Callable[..., Path]) -> None:
    """Drawn segmentations, two passes, an early end, and an average that is kept."""
    whole, killed = beginning("whole", "translation", *EVERYTHING), beginning("killed", "translation", *EVERYTHING)
    finish(whole)
    finished = json.loads((whole / "finished.json").read_text())
    assert finished["step"] == 15
    assert finished["ended"].startswith("val/loss was no better than ")
    assert finished["ended"].endswith(" by more than 100 in 2 validations")
    assert "-mean-" in finished["checkpoint"]
    assert finished["averages"][finished["checkpoint"]] == min(finished["averages"].values())
    assert len(finished["averages"]) == 4
    for point in AT_THE_END:
        assert kill_at(killed, point), point
    finish(killed)
    assert_same(end(killed), end(whole))


def instants(task: str, duration: float, kills: int) -> Iterator[float]:
    """Instants of kills, in seconds after the start of a process: a quarter of them while it still begins."""
    source = random.Random(task)
    for kill in range(kills):
        yield source.uniform(0.0, duration if kill % 4 else duration / 4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", TASKS)
def test_killed_fifty_times(beginning: Callable[..., Path], task: str, workers: int) -> None:
    """A run is killed until it comes to its end before that, then the next one: together 25 times."""
    more = (f"trainer.workers={workers}",)
    whole = beginning("whole", task, *more)
    started = time.monotonic()
    finish(whole)
    duration, expected = time.monotonic() - started, end(whole)
    run, number = beginning("killed-0", task, *more), 0
    for seconds in instants(task, duration, kills=25):
        if not kill_after(run, seconds):
            assert_same(end(run), expected)
            number += 1
            run = beginning(f"killed-{number}", task, *more)
    finish(run)
    assert_same(end(run), expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_every_point(beginning: Callable[..., Path], task: str) -> None:
    """A run for each point: killed there, and again if it comes there again."""
    whole = beginning("whole", task)
    finish(whole)
    expected = end(whole)
    for number, point in enumerate(Point(target, call) for target, calls in POINTS.values() for call in calls):
        run = beginning(f"killed-{number}", task)
        assert kill_at(run, point), point
        kill_at(run, point)
        finish(run)
        assert_same(end(run), expected)
