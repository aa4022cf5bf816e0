"""Growing files: whenever a process dies, another one goes on from the last mark, and the bytes are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.growing import GrowingArray, GrowingFile, Marks, RaggedWriter
from etude.untrusted import BrokenFileError

PARTS = st.lists(
    st.tuples(st.lists(st.integers(0, 65535), max_size=5), st.sampled_from(["", "mark", "die"])), max_size=9
)
"""Values that are written, and what happens after them."""


@given(PARTS)
def test_a_file_that_grew_over_many_lives_is_as_numpy_writes_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[int], str]]
) -> None:
    path = tmp_path_factory.mktemp("grown") / "a.npy"
    marks: Marks = {}
    written, place = 0, 0
    array = GrowingArray(path, np.uint16, marks)
    while place < len(parts):
        values, then = parts[place]
        array.extend(values)
        place += 1
        if then == "mark":
            marks, written = array.mark(), place
        if then == "die":
            parts = [*parts[: place - 1], (values, ""), *parts[place:]]  # it dies there once
            array.close()  # as late as possible: more is on the disk than is marked
            array, place = GrowingArray(path, np.uint16, marks), written
    assert len(array) == sum(len(values) for values, _ in parts)
    array.close()
    np.save(path.with_name("b.npy"), np.array([value for values, _ in parts for value in values], np.uint16))
    assert path.read_bytes() == path.with_name("b.npy").read_bytes()


def test_arrays_go_on(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "once", "int32") as writer:
        writer.extend([np.arange(size, dtype=np.int32).tobytes() for size in (3, 0, 2, 4)])
    with RaggedWriter(tmp_path / "twice", "int32") as writer:
        writer.append([0, 1, 2])
        marks = writer.mark()
        writer.append([7, 7, 7, 7, 7, 7, 7, 7])
    with RaggedWriter(tmp_path / "twice", "int32", marks) as writer:
        assert len(writer) == 1
        writer.extend([np.arange(size, dtype=np.int32).tobytes() for size in (0, 2, 4)])
    for suffix in ("values", "offsets.npy"):
        assert (tmp_path / f"once.{suffix}").read_bytes() == (tmp_path / f"twice.{suffix}").read_bytes()


@pytest.mark.parametrize("harm", [b"", b"ab", b"abX", b"Xbc", None])
def test_what_is_not_as_marked_is_refused(tmp_path: Path, harm: bytes | None) -> None:
    path = tmp_path / "a"
    file = GrowingFile(path, {})
    file.write(b"abc")
    marks = {"a": file.mark()}
    file.close()
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm)
    with pytest.raises(BrokenFileError, match=r"a is (missing|not what was marked as written); it is written again"):
        GrowingFile(path, marks)
