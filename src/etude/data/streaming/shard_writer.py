"""Writing of shards: texts are read as a stream, and each shard is at its address before the next is begun."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from etude.data.causal_lm import WHOLE
from etude.data.encode import Encoding, FieldEncoder, batches
from etude.data.prepare import Corpus, CorpusTexts, finished_tokenizer, followed, parallel_tokenizers
from etude.data.streaming.address import Address
from etude.data.streaming.text_shards import (
    ADVICE,
    FORMAT,
    INDEX,
    Index,
    SplitName,
    TextShard,
    TokenizerFile,
    read_index,
    write_shard,
)
from etude.errors import ConfigurationError, DataError
from etude.packages import file_sha256
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.untrusted import BrokenFileError, read_json

PROGRESS = "progress.json"
"""File beside the shards that says what of them is there, until the index does."""

NOTED = 10.0
"""Seconds after which a finished shard is noted: a process that goes on writes no more than that again."""

EVALUATED = 1 << 30
"""Tokens of a split that is evaluated, at most: it is one shard."""

_log = logging.getLogger(__name__)


class _SplitProgress(msgspec.Struct, forbid_unknown_fields=True):
    """What of a split is written.

    Attributes:
        rows: Rows that were read for the shards.
        dropped: Reason -> number of those that were dropped.
        shards: The shards.
        ended: Whether these are all.
    """

    rows: Annotated[int, Meta(ge=0)] = 0
    dropped: dict[str, int] = {}
    shards: list[TextShard] = []
    ended: bool = False


class _Progress(msgspec.Struct, forbid_unknown_fields=True):
    """What is written of the shards with a fingerprint."""

    fingerprint: str
    splits: dict[SplitName, _SplitProgress] = {}


def write_shards(
    corpus: Corpus, tokenizer: TokenizerRecipe | Tokenizer, address: Address, shard_tokens: int, cache: Path
) -> Index:
    """Write a corpus as shards, or return the index if they are there. What a killed process has written is kept.

    No more than one shard is on this machine at a time, besides the corpus.

    Args:
        corpus: Source of rows with the field `text`.
        tokenizer: Recipe of a tokenizer, trained on the training texts, or a finished one.
        address: Where they are written.
        shard_tokens: Tokens after which a shard is full; it may have a few more, as documents are not divided.
        cache: Folder of prepared data, for a tokenizer that is trained.

    Raises:
        ConfigurationError: If other shards are there.
        DataError: If the corpus cannot be read, or a split has no usable row.
        StorageError: If the address cannot be written.
    """
    texts, content = CorpusTexts(corpus, ("text",)), corpus.fingerprint()
    finished = finished_tokenizer(tokenizer, texts, (content, ("text",)), cache)
    described = json.dumps(["shards", FORMAT, content, finished.fingerprint, shard_tokens])
    fingerprint = hashlib.sha256(described.encode()).hexdigest()
    index = read_index(address)
    if index is None:
        with tempfile.TemporaryDirectory(prefix="etude-") as folder:
            writer = _Writer(corpus, finished, address, shard_tokens, Path(folder), _progress(address, fingerprint))
            with parallel_tokenizers():
                return writer.write()
    if index.fingerprint != fingerprint:
        raise ConfigurationError(
            f"{address.root} has shards of another corpus or tokenizer, or of another data.shard_tokens; give another data.root"
        )
    return index


def _progress(address: Address, fingerprint: str) -> _Progress:
    """Return what an earlier process has written of the same shards; what it wrote of others is written over."""
    with tempfile.TemporaryDirectory(prefix="etude-") as folder:
        if address.find(PROGRESS, Path(folder) / PROGRESS):
            try:
                found = read_json(Path(folder) / PROGRESS, _Progress, ADVICE)
            except BrokenFileError as error:
                _log.warning("%s is broken (%s); all shards are written again", address.of(PROGRESS), error.problem)
            else:
                if found.fingerprint == fingerprint:
                    return found
    return _Progress(fingerprint)


@dataclass
class _Growing:
    """Documents that will be a shard."""

    tokens: list[bytes] = field(default_factory=list)
    text_bytes: list[int] = field(default_factory=list)
    size: int = 0


class _Writer:
    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        address: Address,
        shard_tokens: int,
        folder: Path,
        progress: _Progress,
    ) -> None:
        self._corpus, self._tokenizer, self._address = corpus, tokenizer, address
        self._shard_tokens, self._folder, self._progress = shard_tokens, folder, progress
        self._encoder = FieldEncoder(tokenizer, Encoding(("text",), None, WHOLE, "truncate"))
        self._type = np.dtype(self._encoder.types["text"])
        self._noted = time.monotonic()

    def write(self) -> Index:
        for split in self._corpus.splits():
            progress = self._progress.splits.setdefault(split, _SplitProgress())
            if not progress.ended:
                self._write_split(split, progress)
        splits = self._progress.splits
        index = Index(
            FORMAT,
            self._progress.fingerprint,
            self._write_tokenizer(),
            {name: split.dropped for name, split in splits.items()},
            {name: split.shards for name, split in splits.items()},
        )
        self._put(INDEX, index)
        self._address.remove(PROGRESS)
        return index

    def _write_split(self, split: str, progress: _SplitProgress) -> None:
        training = split == "train"
        if progress.rows:
            _log.info("%s: shards that are there already: %s; reading on", split, f"{len(progress.shards):,}")
        before, rows = Counter(self._corpus.dropped), followed(self._corpus.rows(split), split)
        if sum(1 for _ in islice(rows, progress.rows)) != progress.rows:
            raise DataError(
                f"the {split} split of {type(self._corpus).__name__} has fewer rows than before; give another data.root"
            )
        growing, read, dropped = _Growing(), progress.rows, Counter(progress.dropped)
        for batch, _ in batches(rows, ("text",)):
            encoded = self._encoder.encode(batch, training)
            dropped.update(encoded.changes)
            read += len(batch)
            kept = [row for row, number in zip(batch, encoded.numbers, strict=True) if number]
            growing.tokens += encoded.tokens["text"]
            growing.text_bytes += [len(row.fields["text"].encode()) for row in kept]
            growing.size += sum(map(len, encoded.tokens["text"])) // self._type.itemsize
            if training and growing.size >= self._shard_tokens:
                self._write_shard(split, progress, growing)
                growing, progress.rows, progress.dropped = _Growing(), read, dict(dropped)
                self._note()
            elif not training and growing.size > EVALUATED:
                raise DataError(
                    f"the {split} split has more than {EVALUATED:,} tokens; hold out less: data.corpus.val_share=0.001"
                )
        if growing.tokens:
            self._write_shard(split, progress, growing)
        progress.rows, progress.ended = read, True
        progress.dropped = dict(dropped + (Counter(self._corpus.dropped) - before))
        if not progress.shards:
            raise DataError(f"the {split} split of {type(self._corpus).__name__} has no usable row")
        _log.info("%s: %s rows, shards: %s", split, f"{read:,}", f"{len(progress.shards):,}")
        self._note(at_once=True)

    def _write_shard(self, split: str, progress: _SplitProgress, growing: _Growing) -> None:
        name = f"{split}-{len(progress.shards):06d}.safetensors"
        path = self._folder / name
        sizes = np.array([len(tokens) for tokens in growing.tokens], np.int64) // self._type.itemsize
        tokens = np.frombuffer(b"".join(growing.tokens), self._type)
        write_shard(path, tokens, sizes, np.array(growing.text_bytes, np.int64))
        self._address.put(path, name)
        size, sha256 = path.stat().st_size, file_sha256(path)
        progress.shards.append(TextShard(name, size, sha256, len(sizes), len(tokens)))
        path.unlink()

    def _write_tokenizer(self) -> list[TokenizerFile]:
        folder = self._folder / "tokenizer"
        self._tokenizer.save(folder)
        files = list[TokenizerFile]()
        for path in sorted(folder.iterdir()):
            name = f"tokenizer/{path.name}"
            self._address.put(path, name)
            files.append(TokenizerFile(name, path.stat().st_size, file_sha256(path)))
        return files

    def _note(self, at_once: bool = False) -> None:
        """Note what is written, from time to time."""
        if at_once or time.monotonic() - self._noted >= NOTED:
            self._put(PROGRESS, self._progress)
            self._noted = time.monotonic()

    def _put(self, name: str, content: msgspec.Struct) -> None:
        path = self._folder / name
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
        self._address.put(path, name)
