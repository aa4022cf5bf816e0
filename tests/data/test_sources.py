"""Lines, counts of what is dropped, hashes of content, downloads."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.readers.sources import (
    Dropped,
    content_sha256,
    download,
    lines_in_parts,
    read_lines,
    read_text,
    text_of,
)
from etude.errors import DataError


@given(st.lists(st.text().map(lambda text: text.replace("\n", "").removesuffix("\r")), min_size=1))
def test_lines_end_at_newlines_only(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(errors="surrogatepass"), 1))
    first = lines[0].removeprefix("\ufeff")
    assert [line.decode(errors="surrogatepass") for line in read_lines(path)] == [first, *lines[1:]]


def test_carriage_returns_byte_order_mark_and_last_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntw\ro\n\xe2\x80\xa8three\x0c\nfour")
    assert list(read_lines(tmp_path / "a")) == [b"one", b"tw\ro", b"\xe2\x80\xa8three\x0c", b"four"]


@pytest.mark.parametrize(("line", "text"), [(b" a\xc3\xa4 ", "aä"), (b"", ""), (b"\xff", None), (b"a\0b", None)])
def test_text_of(line: bytes, text: str | None) -> None:
    assert text_of(line) == text


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.txt.gz", tmp_path / "link.txt"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path, kind in ((pipe, "pipe"), (link, "device"), (Path("/dev/zero"), "device")):
        for read in (content_sha256, read_text, lambda path: next(read_lines(path))):
            with pytest.raises(DataError, match=f"{path} is a {kind}, and data is read several times; write it into"):
                read(path)


PACKED = gzip.compress(b"line\n" * 10_000, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, r"no such file: .*missing\.txt \(.* has: beside\)"),
        ("empty.txt", b"", "is empty"),
        ("empty.gz", b"", "is empty"),
        ("cut.gz", PACKED[:-20], "is not a complete gzip file"),
        ("plain.gz", b"line\n", "is not a complete gzip file"),
        ("damaged.gz", PACKED[:15] + b"\xff\xff" + PACKED[17:], "is not a complete gzip file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    (tmp_path / "beside").touch()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_lines(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        list(read_lines(tmp_path))


def test_dropped_names_the_first_row_of_each_reason() -> None:
    dropped = Dropped()
    dropped.drop("empty", "a:3")
    dropped.drop("empty", "a:5")
    dropped.drop("wrong", "a:7")
    assert dropped == {"empty": 2, "wrong": 1}
    assert dropped.first == {"empty": "a:3", "wrong": "a:7"}
    assert str(dropped) == "2 empty (the first at a:3), 1 wrong (the first at a:7)"


def test_content_hash_sees_content_and_names_not_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in/x.txt").write_text("one")
    hashes = [content_sha256(tmp_path / name) for name in ("a", "b")]
    assert hashes[0] == hashes[1]
    (tmp_path / "b/in/x.txt").write_text("two")
    assert content_sha256(tmp_path / "b") != hashes[1]
    (tmp_path / "a/in/x.txt").rename(tmp_path / "a/in/y.txt")
    assert content_sha256(tmp_path / "a") != hashes[0]
    assert content_sha256(tmp_path / "b/in/x.txt") == hashlib.sha256(b"two").hexdigest()


class Web:
    """Answers every address with one content, or fails."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.asked = 0

    def urlopen(self, _: str, **__: Any) -> io.BytesIO:
        self.asked += 1
        if self.content is None:
            raise urllib.error.URLError("no network")
        return io.BytesIO(self.content)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web(gzip.compress(b"text\n", mtime=0))
    monkeypatch.setattr("urllib.request.urlopen", web.urlopen)
    return web


HASH = hashlib.sha256(b"text\n").hexdigest()
ADDRESS = "https://example.org/data/val.en.gz"


def test_download_once_unpacked(web: Web, tmp_path: Path) -> None:
    for _ in range(2):
        path = download(ADDRESS, HASH, tmp_path / "new")
    assert path == tmp_path / "new/val.en" and path.read_bytes() == b"text\n"
    assert web.asked == 1
    path.write_bytes(b"changed")
    assert download(ADDRESS, HASH, tmp_path / "new").read_bytes() == b"text\n"


def test_download_of_another_content(web: Web, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"has sha256 {HASH}, expected 00; .*data\.root=FOLDER"):
        download(ADDRESS, "00", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download_offline(web: Web, tmp_path: Path) -> None:
    web.content = None
    with pytest.raises(DataError, match=r"cannot fetch https.*no network.*val\.en.*data\.root=FOLDER"):
        download(ADDRESS, HASH, tmp_path)


def test_download_cut_short(web: Web, tmp_path: Path) -> None:
    assert web.content is not None
    web.content = web.content[:-9]
    with pytest.raises(DataError, match="cannot fetch"):
        download(ADDRESS, HASH, tmp_path)


def test_download_by_https_only(web: Web, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an https address"):
        download("file:///etc/passwd", None, tmp_path)


PARTS = st.lists(st.sampled_from(["ab", " ", "é", "\U0001f31e", "\n", "\t", "xyz"]), min_size=1, max_size=40)


@given(PARTS, st.integers(8, 20))
@settings(deadline=None, max_examples=60)
def test_long_lines_come_in_parts_and_nothing_is_lost(parts: list[str], longest: int) -> None:
    lines, stream = "".join(parts).encode(), io.BytesIO("".join(parts).encode())
    found = list(lines_in_parts(stream, longest))
    assert b"".join(found) == lines
    assert all(len(part) <= longest for part in found)
    assert [part.decode() for part in found], "no character is divided"
    assert all(b"\n" not in part[:-1] for part in found)


def test_a_long_line_is_divided_between_words(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one two three four\nfive six")
    assert list(read_lines(tmp_path / "a", 10)) == [b"one two ", b"three ", b"four", b"five six"]
