"""A disk that is full, or must not be written, at any point of a run: one line, exit code 74, and the run goes on later."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.atomic import storage_errors
from etude.checkpoints.integrity import checkpoints, verify
from tests.runs.killing import BATCH, EXACT, End, assert_same, end
from tests.runs.processes import Ended, command, ended

Overrides = Callable[..., list[str]]
SHORT = (*EXACT, "budget=7step", "validate.every=4step", "checkpoint.every=2step")
"""A checkpoint inside an epoch, one at a validation, one at the end; the first of them is removed by the last."""

STORAGE = 74


@pytest.fixture
def words(overrides: Overrides) -> Callable[..., list[str]]:
    """The command line of a small run, `train` and all that follows, for a folder of outputs."""

    def written(outputs: Path, task: str = "classification") -> list[str]:
        given = overrides(task, *SHORT, BATCH[task], "run.experiment=small", "run.name=x")
        return ["train", *given, f"paths.outputs={outputs}"]

    return written


def attempt(folder: Path, words: list[str], prepare: Callable[[], None] | None = None) -> Ended:
    return ended(folder, command(folder, words, prepare=prepare))


def assert_failed_well(left: Ended, run: Path, says: str) -> None:
    """One line with its exit code; and every checkpoint that has its name is whole."""
    assert left.code == STORAGE, left.log[-3000:]
    assert len(left.said) == 1, left.log[-3000:]
    assert says in left.said[0]
    assert left.said[0].startswith("etude: error: ")
    assert "Traceback" not in left.log, left.log[-3000:]
    assert all(not verify(path) for path in checkpoints(run / "checkpoints").values())


def whole(folder: Path, words: Callable[..., list[str]], task: str = "classification") -> End:
    """What a run ends with that nothing disturbs."""
    left = attempt(folder / "log", words(folder / "whole", task))
    assert left.code == 0, left.log[-3000:]
    return end(folder / "whole" / "small" / "x")


# Any call that writes


def fail_from(call: int, below: Path, number: int) -> None:
    """Have every call that writes below a folder fail, from the call with this number on, counted from 1."""
    calls = itertools.count(1)

    def guarded(real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            path = place(arguments[0])
            if path.is_relative_to(below) and writes(*arguments, **named) and next(calls) >= call:
                raise OSError(number, os.strerror(number), str(path))
            return real(*arguments, **named)

        return act

    for name in ("mkdir", "rename", "replace", "symlink", "fsync", "write", "ftruncate"):
        setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))
    os.open = guarded(os.open, lambda path, flags, *_, **__: bool(flags & (os.O_CREAT | os.O_WRONLY)))
    io.open = guarded(io.open, lambda file, mode="r", *_, **__: any(letter in mode for letter in "wxa+"))


def place(argument: Any) -> Path:
    """The path of a path, or of an open file's descriptor."""
    return Path(f"/proc/self/fd/{argument}").readlink() if isinstance(argument, int) else Path(argument).absolute()


@pytest.mark.slow
def test_full_at_ever_later_calls_it_is_the_same_run(words: Callable[..., list[str]], tmp_path: Path) -> None:
    """First the checkpoints' folder only, so that a thread finds the error; then all folders, until no call is left."""
    outputs = tmp_path / "outputs"
    run = outputs / "small" / "x"
    fails = [(run / "checkpoints", call) for call in (2, 12, 40)]
    everywhere = ((outputs, 1 + 9 * number * number) for number in itertools.count())
    failed = 0
    for below, call in itertools.chain(fails, everywhere):
        prepare = functools.partial(fail_from, call, below, errno.ENOSPC)
        left = attempt(tmp_path / f"failing-{below.name}-{call}", words(outputs), prepare)
        if left.code == 0:
            break
        assert_failed_well(left, run, os.strerror(errno.ENOSPC))
        assert failed >= len(fails) or "checkpoints/step-0000000" in left.said[0]
        failed += 1
    assert failed > len(fails) + 2
    assert_same(end(run), whole(tmp_path, words), lines=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("task", "number"), [("translation", errno.ENOSPC), ("masked_lm", errno.EROFS)])
def test_a_run_for_every_call_that_fails(
    words: Callable[..., list[str]], tmp_path: Path, task: str, number: int
) -> None:
    expected = whole(tmp_path, words, task)
    for call in itertools.count(1, 3):
        outputs = tmp_path / f"{call}"
        prepare = functools.partial(fail_from, call, outputs, number)
        left = attempt(tmp_path / f"failing-{call}", words(outputs, task), prepare)
        if left.code == 0:
            break
        assert_failed_well(left, outputs / "small" / "x", os.strerror(number))
        again = attempt(tmp_path / f"again-{call}", words(outputs, task))
        assert again.code == 0, again.log[-3000:]
        assert_same(end(outputs / "small" / "x"), expected, lines=4)
    assert call > 100


# A real disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which begins with 16 KB."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_again_and_again(words: Callable[..., list[str]], tmp_path: Path, disk: Path) -> None:
    remount(disk, "ro")
    assert_failed_well(attempt(tmp_path / "ro", words(disk)), disk / "small" / "x", "Read-only file system")
    remount(disk, "rw")
    failed = 0
    for size in itertools.count(16, 72):
        remount(disk, f"size={size}k")
        left = attempt(tmp_path / f"{size}", words(disk))
        if left.code == 0:
            break
        assert_failed_well(left, disk / "small" / "x", "No space left on device")
        failed += 1
    assert failed > 3
    assert_same(end(disk / "small" / "x"), whole(tmp_path, words), lines=4)


def test_an_error_of_a_library_is_not_called_one_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^there is no file named tokenizer\.json$"), storage_errors(tmp_path):
        raise OSError("there is no file named tokenizer.json")
