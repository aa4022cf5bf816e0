"""Ranks that shard weights, gradients and optimizer states (FSDP2) train what one process does, and continue each other."""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from etude.atomic import Written
from etude.checkpoints import checkpoint as checkpoint_module
from etude.checkpoints.checkpoint import Snapshot, read_tensors
from etude.checkpoints.integrity import read_manifest, verify
from etude.checkpoints.shards import Place
from etude.runs.record import RECORD, read, series
from tests.runs.conftest import TASKS
from tests.runs.processes import STEP, Sent, command, ended, run
from tests.runs.test_ranks import WITHOUT_DROPOUT, assert_close

Overrides = Callable[..., list[str]]
ANYWHERE = ("trainer.oversubscribe=true", "trainer.threads=1")
SAVED = ("checkpoint.every=2step", "checkpoint.keep_last=9", *ANYWHERE)


def sharded(ranks: int) -> tuple[str, str]:
    return f"trainer.devices={ranks}", "trainer.strategy=fsdp"


def trained(folder: Path, words: list[str]) -> Path:
    left = run(folder, ["train", *words])
    assert left.code == 0, left.log[-3000:]
    return Path(left.out.strip())


def as_after(step: int, finished: Path, folder: Path) -> Path:
    """Copy a finished run as it was when it was killed after the checkpoint of a step."""
    shutil.copytree(finished, folder, symlinks=True)
    for path in (
        folder / "finished.json",
        folder / "report.html",
        *(folder / "checkpoints" / at for at in ("best", "last")),
    ):
        path.unlink()
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    return folder


def continued(run_folder: Path, scratch: Path, *words: str) -> Path:
    left = run(scratch, ["resume", str(run_folder), *words])
    assert left.code == 0, left.log[-3000:]
    return run_folder


def hashes(run_folder: Path) -> dict[str, str]:
    """The hashes of everything that the last checkpoint holds of the training's state."""
    files = read_manifest(run_folder / "checkpoints" / "step-00000008").files
    return {name: file.sha256 for name, file in files.items() if name.endswith(".safetensors")}


def full_disk(rank: int) -> None:
    """Let the disk of a rank be full when it writes the checkpoint of step 4."""
    write = checkpoint_module._write_tensors

    def fails(taken: Snapshot, place: Place) -> dict[str, Written]:
        if place.rank == rank and taken.step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(taken, place)

    checkpoint_module._write_tensors = fails


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task != "classification"]


@pytest.mark.parametrize("task", ["classification", *SLOW])
def test_what_four_ranks_saved_two_and_one_continue(overrides: Overrides, tmp_path: Path, task: str) -> None:
    words = [*WITHOUT_DROPOUT[task], *SAVED]
    alone = trained(tmp_path / "one", overrides(task, *words, "run.experiment=one"))
    four = trained(tmp_path / "four", overrides(task, *words, *sharded(4), "run.experiment=four"))
    assert_close(four, alone)
    assert (four / "checkpoints" / "best" / "model.shard-3-of-4.safetensors").exists()
    for ranks, how in ((2, ("trainer.devices=2",)), (1, ("trainer.devices=1", "trainer.strategy=auto"))):
        after = as_after(4, four, tmp_path / f"on{ranks}")
        held = read_tensors(after / "checkpoints" / "step-00000004", "model")
        assert_close(continued(after, tmp_path / f"go{ranks}", *how), alone)
        last = after / "checkpoints" / "step-00000008"
        assert not verify(last)
        assert (last / "model.safetensors").exists() == (ranks == 1)
        found, expected = (read_tensors(each / "checkpoints" / "step-00000008", "model") for each in (after, four))
        assert found.keys() == expected.keys() == held.keys()
        assert all(found[name].shape == held[name].shape for name in held)


@pytest.mark.slow
def test_two_passes_of_sharded_weights_are_those_of_whole_ones(overrides: Overrides, tmp_path: Path) -> None:
    words = [*WITHOUT_DROPOUT["translation"], *SAVED, "task/consistency=r_drop"]
    alone = trained(tmp_path / "one", overrides("translation", *words, "run.experiment=one"))
    two = trained(tmp_path / "two", overrides("translation", *words, *sharded(2), "run.experiment=two"))
    assert_close(two, alone)


@pytest.mark.slow
def test_a_killed_sharded_training_continues_to_the_same_bits(overrides: Overrides, tmp_path: Path) -> None:
    """With dropout, averages of the weights, micro-batches, and an average of checkpoints at the end."""
    more = ("callbacks=averaged", "average.last=[2]", "trainer.micro_batches=2", *SAVED, *sharded(2), "run.name=x")
    words = overrides("translation", *more)
    undisturbed = trained(tmp_path / "whole", [*words, "run.experiment=whole"])
    killed = [*words, "run.experiment=killed"]
    for rank, call in ((0, 7), (1, 5)):
        left = run(tmp_path / "killed", ["train", *killed], Sent(STEP, call, (signal.SIGKILL,), rank=rank))
        assert left.code != 0
        assert "Traceback" not in left.log
    again = trained(tmp_path / "again", killed)
    assert hashes(again) == hashes(undisturbed)
    assert series(read(again / RECORD), "val/loss") == series(read(undisturbed / RECORD), "val/loss")
    assert (again / "finished.json").read_bytes() == (undisturbed / "finished.json").read_bytes()


@pytest.mark.slow
def test_a_signal_saves_first(overrides: Overrides, tmp_path: Path) -> None:
    words = overrides("classification", "checkpoint.every=100step", *ANYWHERE, *sharded(2), "run.name=x")
    left = run(tmp_path / "stopped", ["train", *words], Sent(STEP, 6, (signal.SIGTERM,), rank=0))
    assert left.code == 143, left.log[-3000:]
    (saved,) = (tmp_path / "outputs").glob("classification/demo/x/checkpoints/step-00000006")
    assert not verify(saved)
    trained(tmp_path / "again", words)


@pytest.mark.slow
def test_a_rank_that_dies_while_it_writes_leaves_the_last_checkpoint(overrides: Overrides, tmp_path: Path) -> None:
    words = overrides("classification", *SAVED, *sharded(2), "run.name=x")
    write = "etude.checkpoints.saver:write_shard"
    left = run(tmp_path / "killed", ["train", *words], Sent(write, 2, (signal.SIGKILL,), rank=1))
    assert left.code != 0
    folder = tmp_path / "outputs" / "classification" / "demo" / "x"
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-00000002"]
    trained(tmp_path / "again", words)
    assert (folder / "finished.json").exists()
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_any_rank_is_one_line(overrides: Overrides, tmp_path: Path, rank: int) -> None:
    words = overrides("classification", *SAVED, *sharded(2), "run.name=x")
    left = ended(tmp_path / "full", command(tmp_path / "full", ["train", *words], prepare=partial(full_disk, rank)))
    assert left.code == 74, left.log[-3000:]
    (said,) = left.said
    assert "step-00000004: No space left on device" in said
    assert "free some space" in said
    assert "Traceback" not in left.log
    folder = tmp_path / "outputs" / "classification" / "demo" / "x"
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-00000002"]
    trained(tmp_path / "again", words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("precision=bf16-mixed",), ("finetune=lora",), ("non_finite=skip",)])
def test_choices_go_together_with_shards(overrides: Overrides, tmp_path: Path, words: tuple[str, ...]) -> None:
    plain = [*WITHOUT_DROPOUT["classification"], *ANYWHERE, *words]
    one = trained(tmp_path / "one", overrides("classification", *plain, "run.experiment=one"))
    two = trained(tmp_path / "two", overrides("classification", *plain, *sharded(2), "run.experiment=two"))
    losses = [series(read(folder / RECORD), "train/loss")[1] for folder in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-2 if "bf16" in words[0] else 1e-5)
