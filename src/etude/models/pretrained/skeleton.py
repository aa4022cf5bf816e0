"""What a run keeps of the pretrained model that it began with, to build it again: the weights are in its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.errors import DataError, StorageError
from etude.hub import PretrainedFiles, open_pretrained

CONFIG = "config.json"


class PretrainedSkeleton(PretrainedFiles):
    """The config.json of a pretrained model, and the names and shapes of its tensors: zeros stand for their values.

    A run is looked at, continued and exported with these, so that it needs no files but its own, and is not changed by a
    model that has changed since in its folder or in the hub.

    Args:
        path: The file of a run or of a checkpoint (`etude.runs.folder.PRETRAINED`), as `weights.kept` says it.
        heads: Whether the weights that are loaded afterwards are those of the task's head too. A run that starts from
            one of another task has a head that may come from the pretrained model: see `files_of_heads`.

    Raises:
        StorageError: If it cannot be read.
    """

    def __init__(self, path: Path, heads: bool = True) -> None:
        self.heads = heads
        try:
            self.content: dict[str, Any] = json.loads(path.read_bytes())
            super().__init__(self.content["name"])
            self._config: dict[str, Any] = self.content["config"]
            self._shapes: dict[str, list[int]] = self.content["tensors"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            raise StorageError(
                f"{path} cannot be read: {reason}; put it back from the run's newest checkpoint"
            ) from error

    @property
    def version(self) -> str | None:
        """The version of the model that the run began with."""
        version: str | None = self.content["version"]
        return version

    def describe(self) -> dict[str, Any]:
        """Return what the files were that the run began with."""
        return {key: self.content[key] for key in ("name", "version", "sha256")}

    def has(self, file: str) -> bool:
        """Whether it is config.json."""
        return file == CONFIG

    def read(self, file: str) -> bytes:
        """Return the content of config.json."""
        if file != CONFIG:
            raise DataError(f"a run keeps {CONFIG} of {self.name}, not {file}")
        return json.dumps(self._config).encode()

    def _find(self, file: str) -> Path:
        raise DataError(f"a run keeps no file of {self.name}, so that {file} has no path")

    def tensors(self) -> dict[str, Tensor]:
        """Return zeros of each tensor's shape."""
        return {name: torch.zeros(shape) for name, shape in self._shapes.items()}


def files_of_heads(files: PretrainedFiles) -> PretrainedFiles:
    """Return the files that a head's weights come from: of what was kept without them, the pretrained model itself.

    Raises:
        DataError: If that is not there any more.
    """
    return files if not isinstance(files, PretrainedSkeleton) or files.heads else open_pretrained(files.name)
