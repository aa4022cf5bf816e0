"""Shards: files of tokenized documents, and the index that names them. The index is written last.

Axes: M documents of a shard.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from jaxtyping import Int
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from etude.data.causal_lm import DocumentTexts
from etude.data.streaming.address import Address
from etude.untrusted import BrokenFileError, read_json

FORMAT = 1
"""Version of the files."""

INDEX = "index.json"

ADVICE = "copy it anew, or remove index.json, and `etude prepare` writes all shards again"
"""What to do about a broken file."""

Count = Annotated[int, Meta(ge=0)]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
SplitName = Annotated[str, Meta(pattern="^(train|val|test)$")]


class TextShard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard as the index has it.

    Attributes:
        name: Its file.
        size: Bytes of the file.
        sha256: Hash of them.
        documents: M.
        tokens: Tokens of all documents, without special ones.
    """

    name: Annotated[str, Meta(pattern=r"^(train|val|test)-\d{6}\.safetensors$")]
    size: Count
    sha256: Hash
    documents: Annotated[int, Meta(ge=1)]
    tokens: Count


class TokenizerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the tokenizer as the index has it."""

    name: Annotated[str, Meta(pattern=r"^tokenizer/[a-z_]+\.[a-z]+$")]
    size: Count
    sha256: Hash


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What there is at an address.

    Attributes:
        format: Version of the files.
        fingerprint: Hash of everything that determines the shards.
        tokenizer: Files of the tokenizer.
        dropped: Split -> reason -> number of rows that were dropped.
        splits: Split -> its shards, in order.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    fingerprint: Hash
    tokenizer: list[TokenizerFile]
    dropped: dict[SplitName, dict[str, Count]]
    splits: dict[SplitName, Annotated[list[TextShard], Meta(min_length=1)]]

    def __post_init__(self) -> None:
        """Refuse shards that nobody can train on, or several of a split that is evaluated."""
        if "train" not in self.splits:
            raise ValueError("splits has no train")
        for split, shards in self.splits.items():
            if split != "train" and len(shards) > 1:
                raise ValueError(f"splits has {len(shards)} shards of {split}, which is one")


def read_index(address: Address) -> Index | None:
    """Return what there is at an address; None if it has no index.

    Raises:
        DataError: If the address does not answer, or its index is broken.
    """
    with tempfile.TemporaryDirectory(prefix="etude-") as folder:
        if not address.find(INDEX, Path(folder) / INDEX):
            return None
        try:
            return read_json(Path(folder) / INDEX, Index, ADVICE)
        except BrokenFileError as error:
            raise BrokenFileError(address.of(INDEX), error.problem, ADVICE) from error


class ShardTokens:
    """The ids of the documents of a shard, read from its file when they are needed.

    Args:
        path: The file.
        rows: [M] documents of it, in order; None: all.

    Attributes:
        lengths: [M] tokens of each document.
        text_bytes: [M] bytes of the text of each.

    Raises:
        BrokenFileError: If the file is no shard.
    """

    def __init__(self, path: Path, rows: Int[np.ndarray, " M"] | None = None) -> None:
        try:
            with safe_open(path, "numpy") as file:
                sizes, text_bytes, self._values = (
                    file.get_tensor("sizes"),
                    file.get_tensor("bytes"),
                    file.get_slice("tokens"),
                )
        except (SafetensorError, OSError) as error:
            raise BrokenFileError(path, f"is no shard ({' '.join(str(error).split())})", ADVICE) from error
        self._ends = np.cumsum(sizes)
        self._rows = np.arange(len(sizes)) if rows is None else rows
        if (sizes < 0).any() or sizes.shape != text_bytes.shape or [self._ends[-1]] != self._values.get_shape():
            raise BrokenFileError(path, "has documents that do not fit its tokens", ADVICE)
        self.lengths, self.text_bytes = sizes[self._rows], text_bytes[self._rows]

    def __getitem__(self, document: int) -> Int[np.ndarray, " n"]:
        length = int(self.lengths[document])
        end = int(self._ends[self._rows[document]])
        found: np.ndarray = self._values[end - length : end] if length else np.zeros(0, np.int64)
        return found


def open_shard(path: Path, rows: Int[np.ndarray, " M"] | None = None) -> DocumentTexts:
    """Return the documents of a shard, or some of them."""
    tokens = ShardTokens(path, rows)
    return DocumentTexts(tokens, tokens.text_bytes)


def write_shard(
    path: Path, tokens: Int[np.ndarray, " n"], sizes: Int[np.ndarray, " M"], text_bytes: Int[np.ndarray, " M"]
) -> None:
    """Write a shard.

    Args:
        path: The file.
        tokens: Ids of all documents, one after the other.
        sizes: Tokens of each document.
        text_bytes: Bytes of the text of each document.
    """
    save_file({"tokens": tokens, "sizes": sizes, "bytes": text_bytes}, path)
