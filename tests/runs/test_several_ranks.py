"""What several ranks must not do: score otherwise than one process, log or write twice, disagree, or wait for ever."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from etude.data.loader import PlanSampler, Slice
from etude.runs.record import RECORD, read
from etude.training.launch import LOST
from tests.runs.misbehaving import note_changed_files
from tests.runs.processes import STEP, Ended, Sent, command, ended, gone, run

Overrides = Callable[..., list[str]]
HANGING = ("trust=[tests]", "++callbacks.hanging._target_=tests.runs.misbehaving.HangingRank")
UNEQUAL = ("trust=[tests]", "++callbacks.unequal._target_=tests.runs.misbehaving.UnequalKeys")
MANY = "trainer.oversubscribe=true"


def shown(folder: Path) -> tuple[dict[str, float], list[dict[str, object]]]:
    """The scores of a run, and the rows that they were computed from."""
    scores = json.loads((folder / "finished.json").read_text())["scores"]
    rows = [json.loads(line) for line in (folder / "evaluations" / "test.jsonl").read_text().splitlines()]
    return scores, rows


def logged(folder: Path) -> list[tuple[int, str]]:
    """Every value of a run's record: its step and its name."""
    return [(event.step, name) for event in read(folder / RECORD) for name in event.values]


def changed_files(notes: Path) -> dict[str, set[str]]:
    """What each rank of a command wrote, renamed or removed, without devices, pipes and the processes' own files."""
    found: dict[str, set[str]] = {}
    for line in notes.read_text().splitlines():
        rank, path = line.split(" ", 1)
        if not path.startswith(("/dev/", "/proc/")):
            found.setdefault(rank, set()).add(path)
    return found


# Scores, and what is logged and written


@pytest.mark.parametrize(
    ("task", "ranks", "limits"),
    [
        pytest.param("translation", (4,), ("limit.val=3", "limit.test=3"), marks=pytest.mark.slow),
        ("classification", (3,), ()),
        pytest.param("classification", (2, 4), (), marks=pytest.mark.slow),
        pytest.param("translation", (2, 3, 4), (), marks=pytest.mark.slow),
        pytest.param("classification", (4,), ("limit.val=2", "limit.test=2"), marks=pytest.mark.slow),
        pytest.param("masked_lm", (2, 3, 4), (), marks=pytest.mark.slow),
        pytest.param("masked_lm", (4,), ("limit.val=2", "limit.test=3"), marks=pytest.mark.slow),
        pytest.param("causal_lm", (2, 3, 4), (), marks=pytest.mark.slow),
        pytest.param("causal_lm", (4,), ("limit.val=2", "limit.test=3"), marks=pytest.mark.slow),
    ],
)
def test_ranks_score_the_same_weights_as_one_process_does(
    overrides: Overrides, tmp_path: Path, task: str, ranks: tuple[int, ...], limits: tuple[str, ...]
) -> None:
    # Of a rate this small no float32 weight changes: all processes score the weights that were drawn.
    same_weights = ("optimizer.lr=1e-30", "budget=2step", "validate.every=1step", "run.name=x", *limits)
    folders = {}
    for devices in (1, *ranks):
        words = overrides(task, *same_weights, MANY, f"trainer.devices={devices}", f"run.experiment=on{devices}")
        notes = tmp_path / f"changed{devices}"
        process = command(tmp_path / f"{devices}", ["train", *words], prepare=partial(note_changed_files, notes))
        left = ended(tmp_path / f"{devices}", process)
        assert left.code == 0, left.log[-3000:]
        folders[devices] = Path(left.out.strip())
        changed = changed_files(notes)
        assert any(path.startswith(str(folders[devices])) for path in changed["0" if devices > 1 else "command"])
        others = {rank: paths for rank, paths in changed.items() if rank not in ("command", "0")}
        assert not any(others.values()), others
    scores, rows = shown(folders[1])
    validations = [event.values for event in read(folders[1] / RECORD) if "val/loss" in event.values]
    assert len(validations) == 2
    for devices in ranks:
        scores_of_ranks, rows_of_ranks = shown(folders[devices])
        assert scores_of_ranks == pytest.approx(scores, rel=1e-6, abs=1e-6)
        assert [row["id"] for row in rows_of_ranks] == [row["id"] for row in rows] == list(range(len(rows)))
        assert [row.get("output") for row in rows_of_ranks] == [row.get("output") for row in rows]
        found = [event.values for event in read(folders[devices] / RECORD) if "val/loss" in event.values]
        for one, several in zip(validations, found, strict=True):
            assert several == pytest.approx(one, rel=1e-6, abs=1e-6)
        assert logged(folders[devices]) == logged(folders[1])
        assert len(set(logged(folders[devices]))) == len(logged(folders[devices]))


# Keys


@pytest.mark.parametrize(
    ("devices", "ranks", "hook", "reduced", "said"),
    [
        (2, [1], "on_validation_batch_end", False, "rank 1 and not by rank 0"),
        pytest.param(3, [0, 2], "on_validation_epoch_end", True, "rank 0, 2 and not by rank 1", marks=pytest.mark.slow),
        pytest.param(2, [0], "on_train_batch_end", True, "rank 0 and not by rank 1", marks=pytest.mark.slow),
    ],
)
def test_a_key_that_not_all_ranks_log_is_named(
    overrides: Overrides, tmp_path: Path, devices: int, ranks: list[int], hook: str, reduced: bool, said: str
) -> None:
    key = ("++callbacks.unequal.name=val/odd", f"++callbacks.unequal.ranks={ranks}", f"++callbacks.unequal.hook={hook}")
    words = overrides("classification", *UNEQUAL, *key, f"++callbacks.unequal.reduced={str(reduced).lower()}", MANY)
    left = run(tmp_path / "unequal", ["train", *words, f"trainer.devices={devices}", "trainer.timeout=20s"])
    assert left.code == 78, left.log[-3000:]
    (line,) = left.said
    assert f"'val/odd' was logged by {said}" in line


def test_a_key_that_is_meant_for_the_first_rank_is_recorded_once(overrides: Overrides, tmp_path: Path) -> None:
    key = ("++callbacks.unequal.name=val/odd", "++callbacks.unequal.ranks=[0]", "++callbacks.unequal.meant=true")
    words = overrides("classification", *UNEQUAL, *key, "++callbacks.unequal.hook=on_validation_epoch_end")
    left = run(tmp_path / "meant", ["train", *words, "trainer.devices=2", "budget=4step"])
    assert left.code == 0, left.log[-3000:]
    assert logged(Path(left.out.strip())).count((4, "val/odd")) == 1


@pytest.mark.slow
def test_a_value_that_one_rank_reduces_alone_ends_in_time(overrides: Overrides, tmp_path: Path) -> None:
    """Lightning reduces a value of a step when it is logged: the others are elsewhere then, and nobody can tell beforehand."""
    key = ("++callbacks.unequal.name=train/odd", "++callbacks.unequal.ranks=[1]", "++callbacks.unequal.at_once=true")
    more = ("++callbacks.unequal.hook=on_train_batch_end", "++callbacks.unequal.reduced=true", "trainer.timeout=3s")
    left = run(tmp_path / "alone", ["train", *overrides("classification", *UNEQUAL, *key, *more), "trainer.devices=2"])
    assert_ended_in_time(left, 0.0, "rank 1", "in tell (misbehaving.py:")


# Ranks that hang


def hang_reading() -> None:
    """Let rank 1 wait for its data for ever, from its fourth batch on."""
    whole = PlanSampler.__iter__

    def slices(self: PlanSampler) -> Iterator[Slice]:
        for number, part in enumerate(whole(self), start=1):
            while self.rank == 1 and number == 4:
                time.sleep(60)
            yield part

    setattr(PlanSampler, "__iter__", slices)  # noqa: B010


def assert_ended_in_time(left: Ended, seconds: float, *parts: str) -> None:
    """A command said in one line what hung, and left no process behind."""
    assert left.code == LOST, left.log[-3000:]
    assert seconds < 60
    (line,) = left.said
    for part in parts:
        assert part in line, line
    assert "etude resume" in line
    assert "Traceback" not in left.log
    assert all(gone(process) for process in left.ranks)


@pytest.mark.parametrize(
    ("devices", "rank", "place", "said"),
    [
        (3, 0, "on_train_batch_end", "after a batch, with 2 steps done"),
        pytest.param(2, 1, "on_train_batch_start", "in the forward pass of step 3", marks=pytest.mark.slow),
        pytest.param(4, 2, "on_before_backward", "in the backward pass of step 3", marks=pytest.mark.slow),
        pytest.param(2, 0, "on_validation_batch_end", "after batch 1 of the validation", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_hangs_is_named_with_its_place(
    overrides: Overrides, tmp_path: Path, devices: int, rank: int, place: str, said: str
) -> None:
    hanging = (f"++callbacks.hanging.rank={rank}", "++callbacks.hanging.step=3", f"++callbacks.hanging.place={place}")
    words = overrides("classification", *HANGING, *hanging, "validate.every=2step", "checkpoint.every=1step")
    started = time.monotonic()
    words += [f"trainer.devices={devices}", MANY, "trainer.timeout=3s", "run.name=x"]
    left = run(tmp_path / "hanging", ["train", *words])
    assert_ended_in_time(
        left,
        time.monotonic() - started,
        f"rank {rank} of {devices} kept the others waiting for 3s (trainer.timeout)",
        f"rank {rank} is {said}",
        "in hang (misbehaving.py:",
    )


@pytest.mark.slow
def test_a_rank_that_waits_for_its_data_is_named(overrides: Overrides, tmp_path: Path) -> None:
    words = overrides("classification", "trainer.devices=2", "trainer.timeout=3s")
    started = time.monotonic()
    left = ended(tmp_path / "reading", command(tmp_path / "reading", ["train", *words], prepare=hang_reading))
    assert_ended_in_time(
        left,
        time.monotonic() - started,
        "rank 1 of 2 kept the others waiting",
        "rank 1 is after a batch, with 3 steps done, in slices (test_several_ranks.py:",
        "rank 0 waits in the backward pass of step 4",
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_frozen_is_named(overrides: Overrides, tmp_path: Path, rank: int) -> None:
    """It cannot say where it is; rank 0, which has the places of all, cannot even say which rank it is that hangs."""
    words = overrides("classification", "trainer.devices=2", "trainer.timeout=3s", "run.name=x")
    left = run(tmp_path / "frozen", ["train", *words], Sent(STEP, 3, (signal.SIGSTOP,), rank=rank))
    said = ("rank 1 waited for another rank longer than trainer.timeout", "rank 1 of 2 kept the others waiting for 3s")
    assert_ended_in_time(left, 0.0, said[rank], ("in optimizer_step (base.py:", "of step 3")[rank])
    again = run(tmp_path / "again", ["train", *words])
    assert again.code == 0, again.log[-3000:]
