"""Copies of shards on this machine: those that are read, and those that come next, and no more than were asked for."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.data.cache import cached
from etude.data.streaming.address import Address
from etude.data.streaming.text_shards import ADVICE, Index, TextShard, TokenizerFile
from etude.errors import EtudeError
from etude.packages import file_sha256
from etude.untrusted import BrokenFileError

ATTEMPTS = 3
"""How often a file is copied that does not arrive as the index has it."""

_log = logging.getLogger(__name__)


class ShardStore:
    """The shards of an address. Those of a folder of this machine are read where they are; others are copied when needed.

    Any number of processes share a store; each copy is made once. Whatever is removed can be copied again.

    Args:
        address: Where the shards are.
        folder: Folder of copies, made if absent.
        keep: Most shards in it.
    """

    def __init__(self, address: Address, folder: Path, keep: int) -> None:
        self.address = address
        self.folder = folder
        self.keep = keep
        self._expected: queue.SimpleQueue[TextShard] = queue.SimpleQueue()
        self._process = 0

    def tokenizer(self, index: Index) -> Path:
        """Return a folder of this machine that has the tokenizer."""

        def copy(folder: Path) -> None:
            for file in index.tokenizer:
                self._copy(file, folder / Path(file.name).name)

        return cached(self.folder / "tokenizers", index.fingerprint, copy)

    def path(self, shard: TextShard) -> Path:
        """Return a file of this machine that has a shard. It may be removed while it is open, once others are needed.

        Raises:
            BrokenFileError: If the shard is missing, or not as the index has it.
            DataError: If the address does not answer.
        """
        if self.address.local is not None:
            return _whole(self.address.local / shard.name, shard)
        target = self.folder / shard.name
        with self._alone(shard.name):
            if not target.exists():
                self._copy(shard, target)
                self._make_room(target)
            os.utime(target)
        return target

    def expect(self, shards: Sequence[TextShard]) -> None:
        """Copy shards in the background, in this order."""
        if self.address.local is not None:
            return
        if self._process != os.getpid():  # threads do not survive a fork
            self._process, self._expected = os.getpid(), queue.SimpleQueue()
            threading.Thread(target=self._copy_expected, daemon=True).start()
        for shard in shards:
            self._expected.put(shard)

    def _copy_expected(self) -> None:
        """Copy what is expected, without patience: whoever reads it has that."""
        store = ShardStore(Address(self.address.root, 0.0), self.folder, self.keep)
        while True:
            shard = self._expected.get()
            try:
                store.path(shard)
            except (EtudeError, OSError) as error:  # it is said when the shard is read
                _log.debug("%s is not there yet: %s", shard.name, error)

    def _copy(self, file: TextShard | TokenizerFile, target: Path) -> None:
        """Copy a file, whose name it gets when it is whole."""
        part = target.with_name(f"{target.name}.part")
        for _ in range(ATTEMPTS):
            self.address.get(file.name, part)
            if part.stat().st_size == file.size and file_sha256(part) == file.sha256:
                part.replace(target)
                return
        size = part.stat().st_size
        part.unlink()
        said = f"has {size:,} bytes, of {file.size:,}" if size != file.size else "has other content than the index says"
        raise BrokenFileError(self.address.of(file.name), said, ADVICE)

    def _make_room(self, newest: Path) -> None:
        """Remove the copies that were used longest ago."""
        used = dict[Path, float]()
        for path in self.folder.glob("*.safetensors"):
            try:
                used[path] = path.stat().st_mtime
            except FileNotFoundError:  # by another process
                continue
        older = sorted(used.keys() - {newest}, key=used.__getitem__)
        for path in older[: max(0, len(used) - self.keep)]:
            path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Let one process, and one of its threads, at a time copy a shard; the system releases the lock of one that dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of."""
        return (ShardStore, (self.address, self.folder, self.keep))


def _whole(path: Path, shard: TextShard) -> Path:
    """Return a shard of this machine after a look at its size.

    Raises:
        BrokenFileError: If it is missing or cut.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise BrokenFileError(path, "is missing", ADVICE) from error
    if size != shard.size:
        raise BrokenFileError(path, f"has {size:,} bytes, of {shard.size:,}", ADVICE)
    return path
