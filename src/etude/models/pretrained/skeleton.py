"""The skeleton of a pretrained model, from which a run rebuilds it: the run's own weights are in its checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from etude.errors import DataError
from etude.hub import PretrainedFiles, open_pretrained
from etude.schema_errors import shown
from etude.untrusted import BrokenFileError, read_json

CONFIG = "config.json"
_ADVICE = "put it back from the run's newest checkpoint"
_MOST_ELEMENTS = 1 << 40


class _Skeleton(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a skeleton, as `weight_files.skeleton_content` returns it."""

    name: str
    version: str | None
    sha256: dict[str, str]
    config: dict[str, Any]
    tensors: dict[str, Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=16)]]


class PretrainedSkeleton(PretrainedFiles):
    """The config.json of a pretrained model, and the names and shapes of its tensors, with zeros for their values.

    A run is inspected, continued and exported with these, so that it needs no files but its own, and later changes of the
    model's folder or hub repository do not affect it.

    Args:
        path: The file in a run or a checkpoint (`etude.runs.folder.PRETRAINED`).
        heads: Whether the weights that are loaded afterwards include the task's head. If a run starts from a run of
            another task, its head may come from the pretrained model: see `files_of_heads`.

    Raises:
        BrokenFileError: If the file cannot be read or is not a skeleton.
    """

    def __init__(self, path: Path, heads: bool = True) -> None:
        self.heads = heads
        skeleton = read_json(path, _Skeleton, _ADVICE)
        for name, shape in skeleton.tensors.items():
            if math.prod(shape) > _MOST_ELEMENTS:
                raise BrokenFileError(path, f"tensors['{shown(name)}'] is the shape of no tensor", _ADVICE)
        super().__init__(skeleton.name)
        self.content: dict[str, Any] = msgspec.to_builtins(skeleton)
        self._config, self._shapes = skeleton.config, skeleton.tensors

    @property
    def version(self) -> str | None:
        """Version of the model that the run began with."""
        version: str | None = self.content["version"]
        return version

    def describe(self) -> dict[str, Any]:
        """Return name, version and hashes of the files that the run began with."""
        return {key: self.content[key] for key in ("name", "version", "sha256")}

    def has(self, file: str) -> bool:
        """Whether the file is config.json."""
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
    """Return the files with a head's weights: the pretrained model's own, if a skeleton stands for its body alone.

    Raises:
        DataError: If the pretrained model no longer exists.
    """
    return files if not isinstance(files, PretrainedSkeleton) or files.heads else open_pretrained(files.name)
