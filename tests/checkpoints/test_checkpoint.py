from __future__ import annotations

import errno
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from etude.checkpoints.checkpoint import read, read_weights, remove, snapshot, write
from etude.checkpoints.integrity import (
    MANIFEST,
    CheckpointBrokenError,
    Manifest,
    checkpoint_folder,
    checkpoints,
    newest_valid,
    read_manifest,
    verify,
)
from etude.checkpoints.retention import Retention, apply
from etude.errors import StorageError

CPU = torch.device("cpu")


def a_checkpoint(step: int, score: float | None = None) -> dict[str, Any]:
    """Return something like what Lightning dumps, different at every step."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(7, 5, generator=generator)
    return {
        "global_step": step,
        "state_dict": {
            "embedding.weight": weight,
            "output.weight": weight,
            "bias": torch.randn(5, generator=generator),
        },
        "optimizer_states": [
            {
                "state": {0: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(7, 5, generator=generator)}},
                "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98), "foreach": None, "params": [0, 1]}],
            }
        ],
        "callbacks": {"Stopper": {"best": math.inf, "wait": 3, "on": True}},
        "etude": {"score": score},
    }


@pytest.fixture
def companions(tmp_path: Path) -> dict[str, Path]:
    source = tmp_path / "run"
    (source / "tokenizer").mkdir(parents=True)
    (source / "tokenizer" / "tokenizer.json").write_text('{"model": "BPE"}')
    (source / "facts.json").write_text('{"vocabulary": 11}')
    return {"tokenizer": source / "tokenizer", "facts.json": source / "facts.json"}


def save(folder: Path, step: int, companions: dict[str, Path] | None = None, score: float | None = None) -> Path:
    path = checkpoint_folder(folder, step)
    write(snapshot(a_checkpoint(step, score)), path, companions or {})
    return path


def is_step(folder: Path, step: int) -> bool:
    """Whether the folder holds the whole checkpoint of the step, bit for bit."""
    found, expected = read(folder, CPU), a_checkpoint(step)
    weights = [(found["state_dict"][name], tensor) for name, tensor in expected["state_dict"].items()]
    rest = [item.pop("state")[0] for item in (found["optimizer_states"][0], expected["optimizer_states"][0])]
    weights += [(rest[0][name], tensor) for name, tensor in rest[1].items()]
    same = all(torch.equal(one, other) and one.dtype == other.dtype for one, other in weights)
    found.pop("state_dict"), expected.pop("state_dict")
    return same and found == expected


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Writing and reading


def test_a_checkpoint_comes_back(tmp_path: Path, companions: dict[str, Path]) -> None:
    folder = save(tmp_path / "checkpoints", 12000, companions)
    assert folder.name == "step-00012000"
    assert verify(folder) == []
    assert is_step(folder, 12000)
    assert [path.relative_to(folder).as_posix() for path in files_of(folder)] == [
        "facts.json",
        MANIFEST,
        "model.safetensors",
        "state.json",
        "tokenizer/tokenizer.json",
        "training.safetensors",
    ]
    assert list(folder.parent.iterdir()) == [folder]


def test_the_manifest_tells_step_score_ties_and_files(tmp_path: Path, companions: dict[str, Path]) -> None:
    folder = save(tmp_path, 7, companions, score=31.25)
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.score) == (7, 31.25)
    assert manifest.aliases["model"] == {"output.weight": "embedding.weight"}
    assert {*manifest.files, MANIFEST} == {path.relative_to(folder).as_posix() for path in files_of(folder)}
    assert json.loads((folder / MANIFEST).read_text())["score"] == 31.25


@pytest.mark.parametrize("score", [None, 0.0, -1.5, math.inf, math.nan])
def test_any_score_can_be_written(tmp_path: Path, score: float | None) -> None:
    assert repr(read_manifest(save(tmp_path, 3, score=score)).score) == repr(score)


def test_weights_can_be_read_alone_and_are_tied(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    (folder / "training.safetensors").unlink()
    weights = read_weights(folder)
    assert torch.equal(weights["bias"], a_checkpoint(3)["state_dict"]["bias"])
    assert weights["output.weight"] is weights["embedding.weight"]
    assert set(load_file(folder / "model.safetensors")) == {"embedding.weight", "bias"}


def test_what_is_read_does_not_depend_on_the_files_any_more(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    weights = read_weights(folder)
    (folder / "model.safetensors").write_bytes(bytes((folder / "model.safetensors").stat().st_size))
    assert torch.equal(weights["bias"], a_checkpoint(3)["state_dict"]["bias"])
    assert all(tensor.data_ptr() % 64 == 0 for tensor in weights.values())


def test_equal_states_make_equal_files(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", 5), save(tmp_path / "b", 5)
    assert [path.read_bytes() for path in files_of(first)] == [path.read_bytes() for path in files_of(second)]


def test_modules_of_any_kind_of_weight(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11), nn.BatchNorm1d(3)).to(torch.bfloat16)
    layers[1].weight = layers[0].weight
    write(snapshot({"global_step": 1, "state_dict": layers.state_dict()}), tmp_path / "x", {})
    back = read(tmp_path / "x", CPU)["state_dict"]
    for name, tensor in layers.state_dict().items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype


# Never overwritten


def test_the_same_step_again_keeps_the_one_there_is(tmp_path: Path) -> None:
    folder = save(tmp_path, 5, score=1.0)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in files_of(folder)}
    save(tmp_path, 5, score=2.0)
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in files_of(folder)} == before


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest", "empty"])
def test_the_same_step_again_replaces_a_broken_one(tmp_path: Path, damage: str) -> None:
    folder = save(tmp_path, 5)
    if damage == "cut":
        os.truncate(folder / "training.safetensors", 40)
    elif damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        (folder / (MANIFEST if damage == "no manifest" else "state.json")).unlink()
    assert verify(folder)
    save(tmp_path, 5)
    assert is_step(folder, 5)
    assert list(tmp_path.iterdir()) == [folder]


def test_another_step_under_the_same_name_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    with pytest.raises(StorageError, match=r"cannot write step 7 .* checkpoint of step 5"):
        write(snapshot(a_checkpoint(7)), folder, {})
    assert is_step(folder, 5)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / ("thesis" if kind == "folder" else "step-00000005")
    if kind == "folder":
        target.mkdir()
        (target / "chapter.txt").write_text("years of work")
    elif kind == "file":
        target.write_text("years of work")
    else:
        target.symlink_to("elsewhere")
    with pytest.raises(StorageError, match="something else has that name"):
        write(snapshot(a_checkpoint(5)), target, {})
    assert target.is_symlink() if kind == "link" else target.exists()


# Every damage is found


@pytest.mark.parametrize("flips", [25, pytest.param(170, marks=pytest.mark.slow)])  # of each of six files
def test_every_flipped_bit_is_found_and_the_checkpoint_before_is_used(
    tmp_path: Path, companions: dict[str, Path], caplog: pytest.LogCaptureFixture, flips: int
) -> None:
    older, newer = save(tmp_path / "checkpoints", 5, companions), save(tmp_path / "checkpoints", 10, companions)
    draw = random.Random(0)
    for path in files_of(newer):
        content = path.read_bytes()
        for _ in range(flips):
            position, bit = draw.randrange(len(content)), draw.randrange(8)
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            name = path.relative_to(newer).as_posix()
            assert any(name in problem for problem in verify(newer)), (name, position, bit)
            with pytest.raises(CheckpointBrokenError, match=name):
                read(newer, CPU)
        assert newest_valid(newer.parent) == older
        assert [record.getMessage() for record in caplog.records if str(newer) in record.getMessage()]
        path.write_bytes(content)
    assert newest_valid(newer.parent) == newer


def test_every_truncation_is_found(tmp_path: Path, companions: dict[str, Path]) -> None:
    folder = save(tmp_path / "checkpoints", 5, companions)
    draw = random.Random(0)
    for path in files_of(folder):
        content = path.read_bytes()
        for size in {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(8))}:
            path.write_bytes(content[:size])
            assert verify(folder), (path, size)
        path.write_bytes(content + b" ")
        assert verify(folder), path
        path.unlink()
        assert verify(folder), path
        path.write_bytes(content)
    assert verify(folder) == []


def test_the_message_is_one_line_with_folder_file_and_what_to_do(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    os.truncate(folder / "model.safetensors", 10)
    with pytest.raises(CheckpointBrokenError) as error:
        read(folder, CPU)
    message = str(error.value)
    assert str(folder) in message and "model.safetensors: 10 bytes" in message and "etude resume" in message
    assert "\n" not in message
    assert error.value.exit_code == 65


def test_weights_that_changed_are_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointBrokenError, match=r"model\.safetensors"):
        read_weights(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"files": []}', '{"files": {"a": 3}}', "\xff"])
def test_any_text_is_a_manifest_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Manifest.from_text(text)


def test_nothing_to_continue_from(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "missing") is None
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "notes").mkdir()
    assert newest_valid(tmp_path) is None


def test_checkpoints_are_in_order_of_steps(tmp_path: Path) -> None:
    for step in (100_000_000, 5, 99_999_999):
        save(tmp_path, step)
    (tmp_path / "last").symlink_to("step-00000005")
    assert list(checkpoints(tmp_path)) == [5, 99_999_999, 100_000_000]
    assert newest_valid(tmp_path) == tmp_path / "step-100000000"


# Killed


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process and return its id."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return child


def test_killed_in_the_middle_of_saves_nothing_is_lost_or_broken(tmp_path: Path) -> None:
    draw = random.Random(0)
    done = tmp_path / "done"

    def keep_saving() -> None:
        step = max(checkpoints(tmp_path / "checkpoints"), default=0)
        while True:
            step += 1
            save(tmp_path / "checkpoints", step)
            done.write_text(str(step))
            apply(Retention(keep_last=3), tmp_path / "checkpoints", step)

    interrupted, found = 0, dict[int, Path]()
    for attempt in itertools.count(1):
        if attempt > 40 and interrupted > 5 and max(found) > 5:
            break
        child = in_child(keep_saving)
        time.sleep(draw.uniform(0.01, 0.08) * max(1.0, attempt / 40))  # on a busy machine it takes more and longer ones
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += any(tmp_path.glob("checkpoints/.step-*.tmp"))
        found = checkpoints(tmp_path / "checkpoints")
        promised = int(done.read_text() or 0) if done.exists() else 0
        assert not promised or max(found) >= promised
        assert len(found) >= min(promised, 3)
        newest = newest_valid(tmp_path / "checkpoints")
        assert newest == (found[max(found)] if found else None)
    assert all(verify(path) == [] for path in found.values())
    assert all(is_step(path, step) for step, path in found.items())


def count_calls(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
    """Let `act` happen before call number `at` of anything that changes the disk."""
    calls = iter(range(10**6))

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == at:
                act()
            return real(*arguments, **options)

        return call

    for owner, name in ((os, "fsync"), (Path, "open"), (Path, "mkdir"), (Path, "rename"), (os, "open")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("broken_before", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ended_before_any_one_call_the_newest_is_whole(
    tmp_path: Path, companions: dict[str, Path], broken_before: bool
) -> None:
    folder = tmp_path / "checkpoints"
    old, new = save(folder, 5, companions), checkpoint_folder(folder, 10)
    for at in range(60):
        shutil.rmtree(new, ignore_errors=True)
        if broken_before:
            os.truncate(save(folder, 10) / "state.json", 3)

        def work(at: int = at) -> None:
            with pytest.MonkeyPatch.context() as patch:
                count_calls(patch, at, lambda: os._exit(7))
                save(folder, 10, companions)
            os._exit(0)

        _, status = os.waitpid(in_child(work), 0)
        assert newest_valid(folder) in (old, new)
        assert is_step(old, 5)
        if not broken_before:
            assert not new.exists() or is_step(new, 10)
        save(folder, 10, companions)
        assert is_step(new, 10)
        assert {path.name for path in folder.iterdir()} == {old.name, new.name}  # what was left over is gone
        if os.waitstatus_to_exitcode(status) == 0:
            break
    assert 15 < at < 59


def test_leftovers_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    living = subprocess.Popen(["sleep", "60"])
    try:
        theirs = tmp_path / f".step-00000003.{living.pid}.tmp"
        theirs.mkdir()
        save(tmp_path, 4)
        assert theirs.exists()
    finally:
        living.kill()
        living.wait()
    save(tmp_path, 5)
    assert not theirs.exists()


# The disk is full, or worse


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_any_failing_call_is_one_line_and_leaves_no_trace(
    tmp_path: Path, companions: dict[str, Path], number: int
) -> None:
    folder = tmp_path / "checkpoints"
    old = save(folder, 5, companions)

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(60):
        with pytest.MonkeyPatch.context() as patch:
            count_calls(patch, at, fail)
            try:
                save(folder, 10, companions)
            except StorageError as error:
                message = str(error)
            else:
                break
        assert os.strerror(number) in message and "step-00000010" in message and "; " in message
        assert "\n" not in message
        assert is_step(old, 5)
        assert {path.name for path in folder.iterdir()} <= {"step-00000005", "step-00000010"}
        shutil.rmtree(folder / "step-00000010", ignore_errors=True)
    assert 15 < at < 59


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    old = save(small_disk, 5)
    big = a_checkpoint(10) | {"callbacks": {"Averages": {"weight": torch.zeros(400_000)}}}
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        write(snapshot(big), checkpoint_folder(small_disk, 10), {})
    assert list(small_disk.iterdir()) == [old]
    assert is_step(old, 5)
    save(small_disk, 11)
    assert newest_valid(small_disk) == small_disk / "step-00000011"


def test_a_companion_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"No such file or directory \(.*gone.json\)"):
        save(tmp_path, 5, {"facts.json": tmp_path / "gone.json"})
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_is_interrupted_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = save(tmp_path, 5), save(tmp_path, 10)
    real = shutil.rmtree

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            next(files for files in path.iterdir()).unlink()
            raise KeyboardInterrupt
        real(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", interrupted)
        remove(new)
    assert newest_valid(tmp_path) == old
    assert list(checkpoints(tmp_path)) == [5]
    save(tmp_path, 11)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000005", "step-00000011"}
