"""A signal, whenever it comes, ends a run in good order; continued, it ends with the same bits as one left alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.checkpoints.integrity import checkpoints
from tests.runs.killing import BATCH, EXACT, assert_same, begin, end
from tests.runs.processes import SCORING, STARTING, STEP, VALIDATION, Sent, command, ended, gone, run

Begin = Callable[..., Path]
FINAL = ("validate.every=100step", "budget=6step")
"""The one validation follows the last step."""


@pytest.fixture
def beginning(composed: Callable[..., Any], tmp_path: Path) -> Begin:
    """Begins a small run of a task, of the given name."""

    def begin_run(name: str, task: str, *more: str) -> Path:
        return begin(tmp_path / "runs" / name, composed(task, *EXACT, BATCH[task], *more))

    return begin_run


def finished(folder: Path) -> Path:
    """Let a run go on to its end."""
    left = run(folder.with_name(f"{folder.name}.end"), ["resume", str(folder)])
    assert left.code == 0, left.log[-3000:]
    return folder


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("masked_lm", ()),
        pytest.param("classification", FINAL, marks=pytest.mark.slow),
        pytest.param("translation", (), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_wherever_a_signal_comes(beginning: Begin, tmp_path: Path, task: str, more: tuple[str, ...]) -> None:
    whole, stopped = finished(beginning("whole", task, *more)), beginning("stopped", task, *more)
    points = [
        (Sent(STARTING, 1, (signal.SIGINT,)), 130, None),
        (Sent(STEP, 3, (signal.SIGTERM,)), 143, 2),  # in the first micro-batch of step 2
        (Sent(VALIDATION, 1, (signal.SIGUSR1,)), 143, 6 if more else 5),
        (Sent(VALIDATION, 1, (signal.SIGINT,)), 130, 6 if more else 5),  # again, in the same validation
        (Sent(SCORING, 1, (signal.SIGTERM,)), 143, 6),
    ]
    for number, (sent, code, step) in enumerate(points):
        left = run(tmp_path / f"{number}", ["resume", str(stopped)], sent)
        assert left.code == code, (sent, left.log[-3000:])
        assert len(left.said) == 1, left.log[-3000:]
        assert "Traceback" not in left.log
        assert f"stopped by {signal.Signals(sent.numbers[0]).name}" in left.said[0]
        saved = list(checkpoints(stopped / "checkpoints"))
        assert (saved[-1] if saved else None) == step, sent
    assert_same(end(finished(stopped)), end(whole))


def test_a_second_ctrl_c_leaves_at_once(beginning: Begin, tmp_path: Path) -> None:
    folder = beginning("stopped", "classification")
    left = run(tmp_path / "twice", ["resume", str(folder)], Sent(STEP, 3, (signal.SIGINT, signal.SIGINT)))
    assert left.code == 130
    assert len(left.said) == 1
    assert not checkpoints(folder / "checkpoints")


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_one_signalled_rank_stops_both(beginning: Begin, tmp_path: Path, times: int) -> None:
    more = ("trainer.devices=2", f"budget={3 * times}step", "checkpoint.every=100step")
    whole, stopped = (beginning(name, "classification", *more) for name in ("whole", "stopped"))
    for number in range(times):
        target = VALIDATION if number % 3 == 2 else STEP
        sent = Sent(target, 1 if target == VALIDATION else 3, (signal.SIGTERM,), rank=number % 2)
        left = run(tmp_path / f"{number}", ["resume", str(stopped)], sent)
        assert left.code == 143, (sent, left.log[-3000:])
        assert len(left.said) == 1
        assert "Traceback" not in left.log
        assert "stopped by SIGTERM after step" in left.said[0]
        assert all(gone(process) for process in left.ranks)
    assert_same(end(finished(stopped)), end(finished(whole)))


def test_a_signal_to_the_command_comes_to_its_ranks(beginning: Begin, tmp_path: Path) -> None:
    folder = beginning("stopped", "classification", "trainer.devices=2")
    for target, number, code in ((STARTING, signal.SIGTERM, 143), (STEP, signal.SIGINT, 130)):
        left = run(tmp_path / f"{code}", ["resume", str(folder)], Sent(target, 1, (number,), parent=True))
        assert left.code == code, left.log[-3000:]
        assert len(left.said) == 1
        assert "stopped by SIG" in left.said[0]
        assert "Traceback" not in left.log


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_the_run_continues(beginning: Begin, tmp_path: Path) -> None:
    whole, killed = (beginning(name, "classification", "trainer.devices=2") for name in ("whole", "killed"))
    for rank in (0, 1):
        left = run(tmp_path / f"{rank}", ["resume", str(killed)], Sent(STEP, 9, (signal.SIGKILL,), rank=rank))
        assert left.code == 128 + signal.SIGKILL, left.log[-3000:]
        assert len(left.said) == 1
        assert f"rank {rank} of 2 was killed" in left.said[0]
        assert "Traceback" not in left.log
        assert len(left.ranks) == 2
        assert all(gone(process) for process in left.ranks)
    process = command(tmp_path / "parent", ["resume", str(killed)], Sent(STEP, 5, (signal.SIGKILL,), parent=True))
    left = ended(tmp_path / "parent", process)
    assert left.code == -signal.SIGKILL
    assert len(left.ranks) == 2
    assert all(gone(process) for process in left.ranks)
    assert_same(end(finished(killed)), end(finished(whole)))
