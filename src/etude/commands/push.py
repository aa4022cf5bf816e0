"""`etude push RUN owner/name`: an export of a run into a repository of the Hugging Face hub, file by file as it was written."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.errors import ConfigurationError, StorageError
from etude.packages import file_sha256
from etude.runs.folder import EXPORT
from etude.runs.reading import read_export
from etude.runs.saved_run import SavedRun

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_log = logging.getLogger(__name__)


def push(
    run: SavedRun,
    *,
    repository: Any = None,
    export: Any = None,
    private: Any = False,
    dry_run: Any = False,
) -> Mapping[str, Any]:
    """Send the files of an export to the hub, in one commit.

    What is not a file of the export, or is not as it was written, is not sent: the first is left out with a line, the second
    ends the command. `export.json` stays, since it names the run's folder.

    Args:
        run: The run.
        repository: Name of the repository, `owner/name`; it is created if there is none.
        export: Name of the folder in the run's `exports`, or a folder; None: the only one there.
        private: Whether a new repository is private.
        dry_run: Whether only what would be sent is returned.

    Returns:
        The repository, the names of the files and their bytes, and, unless `dry_run`, the address of the commit.

    Raises:
        ConfigurationError: If there is no such export, name or token, or the hub refuses.
        StorageError: If a file is not as it was written, or the hub cannot be reached.
    """
    name = _checked_name(repository)
    for key, value in (("private", private), ("dry_run", dry_run)):
        if not isinstance(value, bool):
            raise ConfigurationError(f"{key}={value} is neither true nor false (command line)")
    folder = _folder(run, export)
    files = written_files(folder)
    plan = {"repository": name, "private": private, "files": {file: size(folder / file) for file in files}}
    if dry_run:
        return {**plan, "sent": False}
    return {**plan, "sent": True, "commit": send(folder, files, name, private)}


def written_files(folder: Path) -> list[str]:
    """Return the names of the files of an export, each as it was written; others in the folder are said and left out.

    Raises:
        StorageError: If one is gone or changed.
    """
    stored = read_export(folder).files
    if not stored:
        raise StorageError(f"{folder} does not say which files it has; write it again with etude export RUN")
    for file, sha256 in stored.items():
        path = folder / file
        if folder.resolve() not in path.resolve().parents or not path.is_file() or file_sha256(path) != sha256:
            raise StorageError(f"{path} is not the file that was exported; write it again with etude export RUN")
    others = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != EXPORT and path.relative_to(folder).as_posix() not in stored
    )
    if others:
        _log.warning("left out, since no export wrote them: %s", ", ".join(others))
    return sorted(stored)


def size(path: Path) -> int:
    """Return the bytes of a file."""
    return path.stat().st_size


def send(folder: Path, files: list[str], repository: str, private: bool) -> str:
    """Send files to the hub in one commit, and return its address.

    Raises:
        ConfigurationError: If there is no token, or the hub refuses.
        StorageError: If the hub cannot be reached.
    """
    # Only this command needs the hub's client.
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    unreachable: Any = HfHubHTTPError.__bases__  # OSError, and that of the library by which this version of it sends
    token = get_token()
    if token is None:
        raise ConfigurationError("no token of the Hugging Face hub is here; write hf auth login, or set HF_TOKEN")
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in files]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(repository, operations=operations, commit_message="An export of etude")
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"the hub refuses {repository}: {reason}; see that the token may write there"
        ) from error
    except unreachable as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"the hub cannot be reached ({type(error).__name__}: {reason}); try it again") from error
    return commit.commit_url


def _checked_name(repository: Any) -> str:
    name = str(repository or "nothing")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of a repository; write etude push RUN owner/name")
    return name


def _folder(run: SavedRun, export: Any) -> Path:
    """Return the folder of the export that is meant."""
    exports = run.path / "exports"
    found = sorted(path.parent for path in exports.glob(f"*/{EXPORT}"))
    if export is not None:
        named = [exports / str(export), Path(str(export)).expanduser()]
        found = [path for path in named if (path / EXPORT).is_file()][:1]
        if not found:
            raise ConfigurationError(
                f"export={export} is not an export of this run; first: etude export {run.path} to=…"
            )
    if not found:
        raise ConfigurationError(f"{run.path} has no export; first: etude export {run.path} to=huggingface")
    if len(found) > 1:
        names = " or ".join(f"export={path.name}" for path in found)
        raise ConfigurationError(f"{run.path} has {len(found)} exports; write {names} (command line)")
    return found[0]
