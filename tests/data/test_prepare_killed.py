"""Preparing, killed by SIGKILL at any instant and begun again: the same bytes, and nothing is encoded twice that was marked."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from etude import growing
from etude.data import encode
from etude.data.prepare import PROGRESS, prepare
from etude.data.readers.sources import Dropped, Row
from etude.errors import DataError
from etude.tokenization import word_memory
from etude.tokenization.trained import BPE, Bytes
from tests.forked import CONTEXT

SETTINGS: dict[str, dict[str, Any]] = {
    "labelled": {"label_field": "label", "max_length": 12, "overflow": "drop"},
    "windows": {"max_length": 7, "overflow": "window"},
    "whole": {"max_length": 9, "overflow": "truncate", "tokenizer": Bytes()},
}


class Lines:
    """A made-up corpus of labelled lines; every thirteenth is empty and left out."""

    def __init__(self) -> None:
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        return "lines"

    def splits(self) -> tuple[str, ...]:
        return ("train", "val")

    def rows(self, split: str) -> Iterator[Row]:
        draw = random.Random(split)
        for number in range(300 if split == "train" else 80):
            words = ["".join(draw.choices("abcdé", k=draw.randint(1, 5))) for _ in range(draw.randint(0, 6))]
            if number % 13:
                yield Row({"text": " ".join(words), "label": draw.choice("zyx")}, f"{split}:{number}")
            else:
                self.dropped.drop("empty", f"{split}:{number}")


def prepared(cache: Path, kind: str) -> Path:
    settings = {"tokenizer": BPE(60), **SETTINGS[kind]}
    corpus, tokenizer = Lines(), settings.pop("tokenizer")
    result = prepare(corpus, tokenizer, text_fields=("text",), cache=cache, **settings)
    return cache / "prepared" / result.fingerprint


def every_few_rows(batch: int = 9, marked: int = 100) -> None:
    """Read in small batches and mark often."""
    encode.BATCH_ROWS, encode.MARKED_CHARACTERS = batch, marked


def counted(call: Callable[[], None]) -> None:
    """Call a function before each write, each sync, and each change of a name."""
    for place, name in (
        (growing.GrowingFile, "write"),
        (os, "fsync"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "mkdir"),
    ):
        setattr(place, name, calling(call, getattr(place, name)))


def calling(first: Callable[[], None], then: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any, **named: Any) -> Any:
        first()
        return then(*arguments, **named)

    return both


def dying(cache: Path, kind: str, at: int) -> None:
    """Prepare in this process, which dies before the call with this number."""
    every_few_rows()
    numbers = itertools.count(1)

    def die() -> None:
        if next(numbers) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    counted(die)
    prepared(cache, kind)
    os._exit(min(next(numbers), 250) if at < 0 else 0)


def attempt(cache: Path, kind: str, at: int) -> int:
    process = CONTEXT.Process(target=dying, args=(cache, kind, at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def content(folder: Path) -> dict[str, str]:
    """Return the hash of every file; the mark of completeness also has times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "complete.json")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def undisturbed(folder: Path, kind: str) -> dict[str, str]:
    return content(prepared(folder, kind))


@pytest.mark.parametrize(
    "kind", ["labelled", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("windows", "whole"))]
)
def test_killed_again_and_again(tmp_path: Path, kind: str) -> None:
    wanted = undisturbed(tmp_path / "whole", kind)
    cache, attempts = tmp_path / "killed", 0
    # Each attempt is killed a little later than the one before: early ones in the tokenizer, late ones while it is sealed.
    while attempt(cache, kind, at=11 + 23 * attempts) == -signal.SIGKILL:
        attempts += 1
        assert attempts < 40
    assert attempts >= 3
    assert content(prepared(cache, kind)) == wanted
    assert sorted(path.name for path in (cache / "prepared").iterdir()) == [".lock", prepared(cache, kind).name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETTINGS)
def test_killed_at_every_instant(tmp_path: Path, kind: str) -> None:
    wanted = undisturbed(tmp_path / "whole", kind)
    for at in itertools.count(1):
        cache = tmp_path / str(at)
        code = attempt(cache, kind, at)
        if code == 0:
            assert at > 60
            return
        assert code == -signal.SIGKILL
        assert attempt(cache, kind, at=-1) > 0
        assert content(prepared(cache, kind)) == wanted, f"killed before call {at}"


def test_what_was_marked_is_not_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt(tmp_path, "labelled", at=150) == -signal.SIGKILL
    (growing_folder,) = (tmp_path / "prepared").glob(".growing-*")
    done = json.loads((growing_folder / PROGRESS).read_text())["train"]["rows"]
    assert 0 < done < 277
    encoded = list[str]()
    call = word_memory.WordMemory.__call__

    def noting(self: word_memory.WordMemory, texts: Sequence[str]) -> list[bytes]:
        encoded.extend(texts)
        return call(self, texts)

    monkeypatch.setattr(word_memory.WordMemory, "__call__", noting)
    prepared(tmp_path, "labelled")
    rows = [row.fields["text"] for split in ("train", "val") for row in Lines().rows(split)]
    assert encoded == rows[done:]


@pytest.mark.parametrize(("batch", "marked"), [(3, 90), (1000, 10**9)])
@pytest.mark.parametrize("threads", ["false", "true"])
def test_bytes_do_not_depend_on_batches_marks_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, marked: int, threads: str
) -> None:
    wanted = undisturbed(tmp_path / "one", "windows")
    monkeypatch.setattr(encode, "BATCH_ROWS", batch)
    monkeypatch.setattr(encode, "MARKED_CHARACTERS", marked)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", threads)
    assert undisturbed(tmp_path / "two", "windows") == wanted


@pytest.mark.parametrize("harm", ["changed", "short", "missing", "progress", "more rows"])
def test_what_was_harmed_meanwhile_is_begun_anew(tmp_path: Path, harm: str) -> None:
    wanted = undisturbed(tmp_path / "whole", "labelled")
    cache = tmp_path / "killed"
    assert attempt(cache, "labelled", at=150) == -signal.SIGKILL
    (growing_folder,) = (cache / "prepared").glob(".growing-*")
    (values,) = growing_folder.rglob("train/text.tokens.values")
    progress = growing_folder / PROGRESS
    if harm == "changed":
        values.write_bytes(b"\xff" + values.read_bytes()[1:])
    if harm == "short":
        values.write_bytes(values.read_bytes()[:10])
    if harm == "missing":
        values.unlink()
    if harm == "progress":
        progress.write_text('{"train": {"rows": -1}}')
    if harm == "more rows":
        done = json.loads(progress.read_text())
        done["train"]["rows"] = 10_000
        progress.write_text(json.dumps(done))
    assert content(prepared(cache, "labelled")) == wanted


def test_data_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the label"):
        prepare(
            Lines(),
            Bytes(),
            text_fields=("text",),
            label_field="label",
            classes=("z",),
            max_length=9,
            overflow="truncate",
            cache=tmp_path,
        )
    assert list((tmp_path / "prepared").iterdir()) == []
