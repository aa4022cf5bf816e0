"""Texts for causal language models, read as a stream of shards: a corpus may be larger than the disk.

Axes: N blocks of the training split, n some of them, S shards.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from etude.data.base import DataSettings
from etude.data.causal_lm import Blocks, CausalLMData, DocumentWindows, ReadPieces, ReadTexts
from etude.data.loader import Examples
from etude.data.order.keyed_plan import KeyedPlan
from etude.data.order.shard_windows import ShardWindows
from etude.data.plan import EpochPlan
from etude.data.prepare import Corpus, Prepared
from etude.data.readers.sources import Row
from etude.data.streaming.address import Address
from etude.data.streaming.shard_store import ShardStore
from etude.data.streaming.shard_writer import write_shards
from etude.data.streaming.text_shards import Index, open_shard, read_index
from etude.errors import ConfigurationError, DataError
from etude.seeding import mix
from etude.tokenization.base import Tokenizer
from etude.tokenization.tokenizer_of_data import TokenizerOfData
from etude.types import Facts

ORDERS = 4
"""Epochs whose order of the shards is kept."""


class StreamedBlocks(ReadTexts):
    """The blocks of all shards: each shard's documents are cut into blocks of their own, as `Blocks` does.

    Attributes:
        lengths: [N] tokens that the model reads of each block.
        counts: [N] the same: each of them is predicted.

    Args:
        store: The shards.
        index: What there is.
        facts: The special ids.
        max_length: Tokens of a block.
        seed: Seed of the run.
        window: Shards whose blocks are mixed.
    """

    def __init__(self, store: ShardStore, index: Index, facts: Facts, max_length: int, seed: int, window: int) -> None:
        super().__init__(facts)
        self._store, self._shards = store, index.splits["train"]
        self._max_length, self._seed, self._window = max_length, seed, window
        predictions = np.array([shard.tokens + shard.documents for shard in self._shards], np.int64)
        self._blocks = -(-predictions // max_length)
        self._first = np.concatenate(([0], np.cumsum(self._blocks)))
        self.lengths = np.full(self._first[-1], max_length, np.int32)
        self.lengths[self._first[1:] - 1] = predictions - (self._blocks - 1) * max_length
        self.counts = self.lengths
        self._remember()

    def _remember(self) -> None:
        self.order = functools.lru_cache(ORDERS)(self._ordered)
        self._opened = functools.lru_cache(2 * self._window)(self._open)
        self._reached = (-1, -1)

    def _ordered(self, epoch: int) -> ShardWindows:
        """Return the order of an epoch's blocks."""
        return ShardWindows(self._blocks, self._window, mix("shards", self._seed, epoch))

    def _open(self, number: int) -> Blocks:
        shard = self._shards[number]
        texts = open_shard(self._store.path(shard))
        return Blocks(texts, self.facts, self._max_length, mix("shard", self._seed, number), "keyed")

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[ReadPieces]:
        """Return the pieces of each block."""
        shards = np.searchsorted(self._first, examples, side="right") - 1
        self._look_ahead(int(shards[0]), epoch)
        return [
            self._opened(int(shard)).rows(np.array([example - self._first[shard]]), epoch)[0]
            for shard, example in zip(shards, examples, strict=True)
        ]

    def _look_ahead(self, shard: int, epoch: int) -> None:
        """Have this window's shards copied, and those of the next one, when the first of them is read."""
        order = self.order(epoch)
        window = order.window_of(shard)
        if (epoch, window) > self._reached:
            self._reached = (epoch, window)
            coming = order.shards_of(window) + order.shards_of(window + 1)
            self._store.expect([self._shards[number] for number in coming])

    def tokens(self, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        """Return the ids that the model reads of a block in an epoch."""
        shard = int(np.searchsorted(self._first, example, side="right")) - 1
        return self._opened(shard).tokens(example - int(self._first[shard]), epoch)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle no open files."""
        return {name: value for name, value in vars(self).items() if name not in ("order", "_opened")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember()


class StreamedTexts(CausalLMData):
    """Tokenized documents in shards, in a folder or at an address of fsspec. Only a few are on this machine at a time.

    The shards are read in random order, and the blocks of `window` neighbouring ones are mixed: a function of seed and epoch,
    like the order of any other data. Where there is a corpus, its shards are written first, unless they are there.

    Args:
        root: Folder or address of the shards.
        max_length: As in `CausalLMData`.
        stride: As in `CausalLMData`.
        corpus: Source of the documents that are written; None: the shards are there.
        shard_tokens: Tokens of a shard that is written, or a few more.
        window: Shards whose blocks are mixed.
        keep: Most copies of shards on this machine, where they are elsewhere.
        patience: Seconds for which an address that does not answer is tried again.
        settings: As in `PlannedData`.

    Raises:
        ConfigurationError: If the settings do not fit together.
    """

    def __init__(
        self,
        root: str,
        max_length: int,
        stride: int | None = None,
        corpus: Corpus | None = None,
        shard_tokens: int = 1 << 24,
        window: int = 8,
        keep: int = 24,
        patience: float = 600.0,
        *,
        settings: DataSettings,
    ) -> None:
        super().__init__(corpus or NoTexts(), max_length, stride, settings=settings)
        _check(settings, window, keep, shard_tokens)
        self.address = Address(root, patience)
        self._written, self._shard_tokens = corpus, shard_tokens
        self._window, self._keep = window, keep

    def read(self) -> Prepared:
        """Return the tokenizer; the shards are written if they are not there."""
        return Prepared(self._tokenizer, {}, (), self.index.fingerprint, dict(self.index.dropped))

    @functools.cached_property
    def index(self) -> Index:
        """What there is at the address.

        Raises:
            DataError: If there is nothing, and no corpus, or other shards than those of the corpus.
        """
        if self._written is not None:
            return write_shards(
                self._written, self.settings.tokenizer, self.address, self._shard_tokens, self.settings.cache
            )
        index = read_index(self.address)
        if index is None:
            raise DataError(
                f"{self.address.root} has no finished shards (index.json); have etude prepare write them, with "
                "'+data.corpus={_target_: etude.data.corpora.TextFiles, train: FOLDER}' and a tokenizer"
            )
        return index

    @functools.cached_property
    def store(self) -> ShardStore:
        """The copies of shards on this machine."""
        folder = self.settings.cache.expanduser() / "shards" / self.index.fingerprint
        return ShardStore(self.address, folder, self._keep)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        """The tokenizer that made the shards.

        Raises:
            ConfigurationError: If another one was chosen.
        """
        chosen, found = self.settings.tokenizer, Tokenizer.load(self.store.tokenizer(self.index))
        if isinstance(chosen, TokenizerOfData) or self._written is not None:
            return found
        if isinstance(chosen, Tokenizer) and chosen.fingerprint == found.fingerprint:
            return found
        raise ConfigurationError(
            f"{self.address.root} was tokenized by another tokenizer than the one chosen; write tokenizer=of_data"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.index.splits)

    @functools.cached_property
    def splits(self) -> dict[str, Examples]:
        """The blocks of training, and the windows of the other splits."""
        return {name: self._training if name == "train" else self._windows(name) for name in self.names}

    @functools.cached_property
    def _training(self) -> StreamedBlocks:
        return StreamedBlocks(self.store, self.index, self.facts, self.max_length, self.settings.seed, self._window)

    def _windows(self, name: str) -> DocumentWindows:
        (shard,) = self.index.splits[name]
        rows = self.selection(name, shard.documents)
        return DocumentWindows(open_shard(self.store.path(shard), rows), self.facts, self.max_length, self.stride)

    def _make_plan(self, epoch: int) -> EpochPlan:
        self._need("train")
        blocks = self._training
        return KeyedPlan.make(
            blocks.lengths,
            seed=self.settings.seed,
            epoch=epoch,
            batch=self.settings.batch,
            counts=blocks.counts,
            row=blocks.order(epoch),
            size=len(blocks.lengths),
        )

    def fields(self, split: str) -> list[str]:
        """Return the names of the fields that `text` knows."""
        return ["text"]

    def documents(self) -> dict[str, int]:
        """Return the documents of each split."""
        return {name: sum(shard.documents for shard in shards) for name, shards in self.index.splits.items()}

    def describe(self) -> dict[str, Any]:
        """Add the number of shards."""
        return {**super().describe(), "shards": len(self.index.splits["train"])}


class NoTexts:
    """The corpus of shards that are there already: it has nothing."""

    @property
    def dropped(self) -> Counter[str]:
        """Nothing."""
        return Counter()

    def fingerprint(self) -> str:
        """Return an empty text."""
        return ""

    def splits(self) -> tuple[str, ...]:
        """Return no split."""
        return ()

    def rows(self, split: str) -> Iterator[Row]:
        """Yield nothing."""
        return iter(())


def _check(settings: DataSettings, window: int, keep: int, shard_tokens: int) -> None:
    if settings.batch.shuffle != "keyed" or settings.batch.pool is None:
        raise ConfigurationError("shards are read a pool of steps at a time; write batch.shuffle=keyed batch.pool=50")
    if settings.limit.train is not None or settings.limit.overfit:
        raise ConfigurationError("limit.train and limit.overfit are not for data=shards; write budget=100step")
    if window < 1 or shard_tokens < 1:
        raise ConfigurationError(f"data.window={window} and data.shard_tokens={shard_tokens} must be at least 1")
    if keep < 2 * window:
        raise ConfigurationError(
            f"data.keep={keep} is less than twice data.window={window}: while a window is read, the next one is copied"
        )
