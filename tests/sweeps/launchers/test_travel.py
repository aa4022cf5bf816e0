"""A folder arrives as it left; whenever that is interrupted, what is there can be continued."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.runs import folder as runs
from etude.sweeps.launchers import travel
from etude.sweeps.launchers.travel import Arrival, best_only, differing, entries, parts

NAMES = ("metrics.jsonl", "config.yaml", "finished.json", "samples/1.json")
STEPS = ("step-00000001", "step-00000002", "step-00000003")
FILES = ("model.safetensors", "state.json")
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.binary(max_size=40) for name in NAMES},
        **{f"checkpoints/{step}": st.tuples(st.binary(max_size=40), st.binary(max_size=40)) for step in STEPS},
    },
)


def test_the_names_are_those_of_runs() -> None:
    assert (travel.CHECKPOINTS, travel.FINISHED) == (runs.CHECKPOINTS, runs.FINISHED)


@contextmanager
def two_folders() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path, "there"), Path(path, "here")


def write(folder: Path, contents: dict[str, bytes | tuple[bytes, bytes]]) -> None:
    """Write files, checkpoints, and a link to the last of these."""
    for name, content in contents.items():
        pairs = (
            {name: content}
            if isinstance(content, bytes)
            else {f"{name}/{f}": c for f, c in zip(FILES, content, strict=True)}
        )
        for file, data in pairs.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
    saved = sorted(name for name in contents if name.startswith("checkpoints/"))
    if saved:
        (folder / "checkpoints" / "last").symlink_to(Path(saved[-1]).name)


def content(folder: Path) -> dict[str, bytes | str]:
    found = entries(folder)
    return {name: link or (folder / name).read_bytes() for name, (_, _, link) in found.items()}


def send(there: Path, here: Path, size: int = 16, most: int | None = None) -> None:
    """Send a folder in small parts; at most so many of them, after which this end is gone."""
    found = entries(there)
    arrival = Arrival(here)
    for count, batch in enumerate(parts(there, differing(found, entries(here)), size)):
        if count == most:
            return
        arrival.take(batch)
    arrival.commit(found)


@settings(max_examples=40)
@given(contents=CONTENTS, size=st.integers(1, 64))
def test_a_folder_arrives_as_it_left(contents: dict[str, bytes | tuple[bytes, bytes]], size: int) -> None:
    with two_folders() as (there, here):
        write(there, contents)
        send(there, here, size)
        assert content(here) == content(there)
        assert entries(here) == entries(there)  # so that nothing would travel again
        assert not differing(entries(there), entries(here))


@settings(max_examples=40)
@given(before=CONTENTS, after=CONTENTS)
def test_checkpoints_and_the_end_are_those_of_the_sender(
    before: dict[str, bytes | tuple[bytes, bytes]], after: dict[str, bytes | tuple[bytes, bytes]]
) -> None:
    with two_folders() as (there, here):
        write(there, after)
        write(here, before)
        send(there, here)
        mine = {name: data for name, data in content(here).items() if name not in before or name in after}
        mine = {name: data for name, data in mine.items() if name in content(there) or name.startswith("checkpoints/")}
        assert mine == content(there)
        assert (here / "finished.json").exists() == ("finished.json" in after)


@settings(max_examples=40)
@given(before=CONTENTS, after=CONTENTS, most=st.integers(0, 8))
def test_an_interrupted_journey_changes_nothing(
    before: dict[str, bytes | tuple[bytes, bytes]], after: dict[str, bytes | tuple[bytes, bytes]], most: int
) -> None:
    with two_folders() as (there, here):
        write(there, after)
        write(here, before)
        known = content(here)
        found, counted = entries(there), list(parts(there, differing(entries(there), entries(here)), 16))
        send(there, here, most=most)
        if most < len(counted):
            assert content(here) == known
            send(there, here)
        assert differing(found, entries(here)) == []


def test_parts_are_no_larger_than_asked(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"x" * 100, "b": b"", "c": b"y" * 3})
    batches = list(parts(tmp_path, ["a", "b", "c"], 16))
    assert max(sum(len(data) for _, data in batch) for batch in batches) == 16
    assert {name for batch in batches for name, _ in batch} == {"a", "b", "c"}


def test_checkpoints_go_first_so_that_the_record_knows_them(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"", "z": b"", "checkpoints/step-1": (b"", b"")})
    assert [name.partition("/")[0] for name in differing(entries(tmp_path), {})] == ["checkpoints"] * 2 + ["a", "z"]


def test_what_is_hidden_or_left_out_stays(tmp_path: Path) -> None:
    write(tmp_path, {".lock": b"", "a": b"", "member.json": b"", "checkpoints/.step-2.7.tmp": (b"", b"")})
    (tmp_path / "checkpoints" / "last").unlink()
    assert list(entries(tmp_path, ("member.json",))) == ["a"]


def test_a_file_that_is_removed_meanwhile_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"1", "b": b"2"})
    sent = parts(tmp_path, ["a", "b"], 1)
    next(sent)
    (tmp_path / "b").unlink()
    with pytest.raises(FileNotFoundError):
        list(sent)


def test_of_a_start_the_best_checkpoint_is_enough(tmp_path: Path) -> None:
    write(tmp_path, {"config.yaml": b"", **{f"checkpoints/{step}": (b"", b"") for step in STEPS}})
    (tmp_path / "checkpoints" / "best").symlink_to(STEPS[1])
    kept = best_only(entries(tmp_path))
    assert {Path(name).parts[1] for name in kept if name != "config.yaml"} == {"best", STEPS[1]}
    assert "config.yaml" in kept


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        Arrival(tmp_path / "run").take([("../../other", b"")])


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".arriving.999999999.x").mkdir()
    other = Arrival(tmp_path)
    other.take([("a", b"1")])
    Arrival(tmp_path).drop()
    assert not (tmp_path / ".arriving.999999999.x").exists()
    other.commit({"a": (1, 0, "")})  # of a process that runs, what comes beside stays
    assert content(tmp_path) == {"a": b"1"}
