"""Outputs of a long work, a part of it in each file, so that a killed one goes on and several processes share it."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from etude.atomic import make_folder, storage_errors, sync, write_json
from etude.errors import ConfigurationError
from etude.untrusted import read_json

SHARD = 1000
"""Lines of a shard: a killed process loses the work on no more."""

_PART = re.compile(r"([1-9]\d*)/([1-9]\d*)")
_BYTES = 1 << 30
_ADVICE = "remove it, and give the same command again"


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outputs of some lines.

    Attributes:
        outputs: An output for each line.
        cut: Lines of which a part was left out, since they have more tokens than the model reads.
        stopped: Outputs that were stopped at their length limit.
        empty: Outputs that are empty.
    """

    outputs: list[str]
    cut: Annotated[int, Meta(ge=0)]
    stopped: Annotated[int, Meta(ge=0)]
    empty: Annotated[int, Meta(ge=0)]


@dataclass(frozen=True)
class Share:
    """The share of a process in a work.

    Attributes:
        number: Which one, from 1.
        parts: How many there are.
    """

    number: int = 1
    parts: int = 1

    @classmethod
    def of(cls, text: str) -> Self:
        """Read `2/4`.

        Raises:
            ConfigurationError: If it is none.
        """
        match = _PART.fullmatch(text)
        if match is None or int(match[1]) > int(match[2]):
            raise ConfigurationError(f"part={text} is no part; write the second of four as part=2/4 (command line)")
        return cls(int(match[1]), int(match[2]))

    def has(self, shard: int) -> bool:
        """Return whether a shard, counted from 0, is of this part."""
        return shard % self.parts == self.number - 1


@dataclass(frozen=True)
class Shards:
    """The shards in a folder, which is hidden in that of the result.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def path(self, number: int) -> Path:
        """Return the file of a shard, counted from 0."""
        return self.folder / f"{number:08d}.json"

    def has(self, number: int) -> bool:
        """Return whether a shard is done."""
        return self.path(number).exists()

    def write(self, number: int, shard: Shard) -> None:
        """Write a shard, whole or not at all.

        Raises:
            StorageError: If it cannot be written.
        """
        with storage_errors(self.folder):
            make_folder(self.folder)
        content: Any = msgspec.to_builtins(shard)
        write_json(self.path(number), content, indent=None)

    def read(self, number: int) -> Shard:
        """Read a shard.

        Raises:
            BrokenFileError: If it is damaged.
        """
        return read_json(self.path(number), Shard, _ADVICE, _BYTES)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process at a time put the shards together; the system releases the lock of a process that dies."""
        with storage_errors(self.folder):
            make_folder(self.folder)
            lock = (self.folder / ".lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def remove(self) -> None:
        """Remove all shards."""
        with storage_errors(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            sync(self.folder.parent)


def cut_in_shards(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each shard, from 0, and its lines."""
    remaining, number = iter(lines), 0
    while shard := list(islice(remaining, SHARD)):
        yield number, shard
        number += 1
