"""The cache: arrays come back, folders are complete or absent, also with two processes, broken files and full disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.cache import Ragged, TextColumn, cached
from etude.errors import DataError, StorageError
from etude.growing import RaggedWriter


@given(st.lists(st.lists(st.integers(0, 65535), max_size=7), max_size=11), st.sampled_from(["uint16", "int32"]))
def test_ragged_round_trip(tmp_path_factory: pytest.TempPathFactory, arrays: list[list[int]], dtype: str) -> None:
    stem = tmp_path_factory.mktemp("ragged") / "x.tokens"
    with RaggedWriter(stem, dtype) as writer:
        for values in arrays:
            writer.append(values)
    ragged = Ragged(stem, dtype)
    assert [ragged[index].tolist() for index in range(len(ragged))] == arrays
    assert ragged.lengths.tolist() == list(map(len, arrays)) and ragged.lengths.dtype == np.int64
    assert ragged.values.tolist() == [value for values in arrays for value in values]
    assert ragged.values.dtype == np.dtype(dtype)
    if arrays:
        assert ragged[-1].tolist() == arrays[-1]
    with pytest.raises(IndexError, match=f"index {len(arrays)} of {len(arrays)}"):
        ragged[len(arrays)]


@pytest.mark.parametrize("size", [1, 3, 9, 100])
def test_the_values_are_read_a_piece_at_a_time(tmp_path: Path, size: int) -> None:
    with RaggedWriter(tmp_path / "x", "uint16") as writer:
        for row in ([1, 2, 3], [], [40_000], [4, 5, 6, 7, 8]):
            writer.append(row)
    pieces = list(Ragged(tmp_path / "x", "uint16").pieces(size))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert np.concatenate(pieces).tolist() == [1, 2, 3, 40_000, 4, 5, 6, 7, 8]


def test_ragged_is_pickled_by_place(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "x", "int32") as writer:
        for _ in range(1000):
            writer.append(range(100))
    pickled = pickle.dumps(Ragged(tmp_path / "x", "int32"))
    assert len(pickled) < 500
    assert pickle.loads(pickled)[999].tolist() == list(range(100))


def test_texts(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "x", np.uint8) as writer:
        for text in ("ä\u2028b", "", "日本"):
            writer.append(text.encode())
    content = Ragged(tmp_path / "x", np.uint8)
    assert list(TextColumn(content)) == ["ä\u2028b", "", "日本"]
    assert list(TextColumn(content, np.array([2, 2, 0])))[1:] == ["日本", "ä\u2028b"]
    assert TextColumn(content)[1:] == ["", "日本"]


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/a").write_text("content")


def forbid(_: Path) -> None:
    pytest.fail("built again")


def test_built_once(tmp_path: Path) -> None:
    place = cached(tmp_path / "root", "key", fill)
    assert place == tmp_path / "root/key" and (place / "sub/a").read_text() == "content"
    assert cached(tmp_path / "root", "key", forbid) == place
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [".lock", "key"]


@pytest.mark.parametrize("harm", ["missing", "short", "unmarked", "garbled"])
def test_broken_folders_are_built_again(tmp_path: Path, harm: str) -> None:
    place = cached(tmp_path, "key", fill)
    if harm == "missing":
        (place / "sub/a").unlink()
    if harm == "short":
        (place / "sub/a").write_text("conten")
    if harm == "unmarked":
        (place / "complete.json").unlink()
    if harm == "garbled":
        (place / "complete.json").write_text("[1]")
    assert (cached(tmp_path, "key", fill) / "sub/a").read_text() == "content"
    cached(tmp_path, "key", forbid)


def test_the_first_to_end_wins(tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        def overtaking(other: Path) -> None:
            (other / "a").write_text("first")

        cached(tmp_path, "key", overtaking)
        (folder / "a").write_text("second")

    assert (cached(tmp_path, "key", overtaken) / "a").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "key"]


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"cannot write .*key: No space left on device; .*paths\.cache=FOLDER"):
        cached(tmp_path, "key", fail)


def _race(root: Path, number: int, start: float) -> None:
    def build(folder: Path) -> None:
        for name in ("a", "b"):
            (folder / name).write_text(str(number))
            time.sleep(0.05)

    time.sleep(max(0.0, start - time.time()))
    place = cached(root, "key", build)
    assert (place / "a").read_text() == (place / "b").read_text()


def test_processes_at_once_over_a_broken_folder(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key/a").write_text("half")
    context = multiprocessing.get_context("spawn")
    start = time.time() + 2
    processes = [context.Process(target=_race, args=(tmp_path, number, start)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "key"]
    assert (tmp_path / "key/a").read_text() == (tmp_path / "key/b").read_text()


@pytest.mark.parametrize("harm", ["changed", "pipe", "outside", "folder"])
def test_files_that_were_changed_are_written_again(tmp_path: Path, harm: str) -> None:
    place = cached(tmp_path / "root", "key", fill)
    file = place / "sub/a"
    file.unlink()
    if harm == "changed":
        file.write_text("CONTENT")  # as long as what was written
    if harm == "pipe":
        os.mkfifo(file)
    if harm == "outside":
        (tmp_path / "elsewhere").write_text("content")
        file.symlink_to(tmp_path / "elsewhere")
    if harm == "folder":
        file.mkdir()
    assert (cached(tmp_path / "root", "key", fill) / "sub/a").read_text() == "content"
    cached(tmp_path / "root", "key", forbid)


def test_a_copied_folder_is_believed_for_its_hashes(tmp_path: Path) -> None:
    shutil.copytree(cached(tmp_path / "one", "key", fill), tmp_path / "two/key", copy_function=shutil.copyfile)
    cached(tmp_path / "two", "key", forbid)


@pytest.mark.parametrize(
    "mark",
    [
        '{"sub/a": ' * 50_000,
        '{"../../secret": {"size": 1, "mtime_ns": 1, "sha256": ""}}',
        '{"/etc/hostname": {"size": 1, "mtime_ns": 1, "sha256": ""}}',
        '{"sub/a": {"size": "7", "mtime_ns": 1, "sha256": ""}}',
        '{"sub/a": 7}',
        '{"sub/a": {}, "sub/a": {}}',
    ],
)
def test_a_mark_that_lies_is_not_believed(tmp_path: Path, mark: str) -> None:
    (cached(tmp_path, "key", fill) / "complete.json").write_text(mark)
    assert (cached(tmp_path, "key", fill) / "sub/a").read_text() == "content"
    cached(tmp_path, "key", forbid)


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        (np.array([0, 5, 3, 6]), "its offsets do not ascend from 0"),
        (np.array([1, 2, 6]), "its offsets do not ascend from 0"),
        (np.array([0, -4, 6]), "its offsets do not ascend from 0"),
        (np.array([0.0, 6.0]), "is not a list of offsets"),
        (np.array([[0, 6]]), "is not a list of offsets"),
        (np.array([], np.int64), "is not a list of offsets"),
        (np.array([0, 7]), "values: has 12 bytes; its offsets need 14"),
        (np.array([0, 1 << 60]), "values: has 12 bytes"),
        (b"garbled", "is not an array"),
        (b"", "is not an array"),
    ],
)
def test_offsets_that_lie_are_one_line(tmp_path: Path, offsets: npt.NDArray[Any] | bytes, said: str) -> None:
    with RaggedWriter(tmp_path / "x", "uint16") as writer:
        writer.append(range(6))
    if isinstance(offsets, bytes):
        (tmp_path / "x.offsets.npy").write_bytes(offsets)
    else:
        np.save(tmp_path / "x.offsets.npy", offsets)
    with pytest.raises(DataError) as caught:
        Ragged(tmp_path / "x", "uint16")
    assert said.removeprefix("values: ") in str(caught.value) and str(tmp_path / "x.") in str(caught.value)
    assert str(caught.value).isprintable() and "remove the folder" in str(caught.value)
