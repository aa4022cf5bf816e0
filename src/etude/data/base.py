"""What the LightningDataModules of all tasks share: preparing once, planning, and loaders that know their place."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
from jaxtyping import Int, Real
from torch.utils.data import DataLoader

from etude.data.loader import Examples, PlanLoader, PlanSampler
from etude.data.plan import Counts, Plan, random_keys
from etude.data.prepare import Corpus, Prepared, Split
from etude.data.sizes import BatchSize, Limit
from etude.duration import Clock
from etude.errors import DataError
from etude.seeding import mix
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.types import Batch, Facts


class PlannedData(lightning.LightningDataModule):
    """Prepares a corpus and serves its splits in the order of the plan.

    Attributes:
        evaluated: The split that `test_dataloader` serves.

    A task's data module says how the corpus is read (`read`), what an example is (`examples`), and what the model must
    know of it (`facts`).

    Args:
        corpus: Where the rows come from.
        max_length: Longest text in tokens, special tokens included.
        tokenizer: How a tokenizer is made, or the one of an earlier run.
        seed: The run's seed, which orders the training data.
        batch: The size of a global batch.
        limit: How much of each split is used.
        cache: Folder of prepared data.
        micro_batches: Slices of each step on each process.
        workers: Processes that make batches, for each process that trains.
    """

    BATCH: ClassVar[str]

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        *,
        tokenizer: TokenizerRecipe | Tokenizer,
        seed: int,
        batch: BatchSize,
        limit: Limit,
        cache: Path,
        micro_batches: int = 1,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.max_length = max_length
        self.seed = seed
        self.batch_size = batch
        self.limit = limit
        self.cache = cache
        self.micro_batches = micro_batches
        self.workers = workers
        self.evaluated = "test"
        self._recipe = tokenizer
        self.plan = functools.lru_cache(maxsize=2)(self._plan_epoch)

    @abstractmethod
    def read(self) -> Prepared:
        """Return the prepared corpus: from the cache, or made now."""

    @abstractmethod
    def examples(self, split: Split, rows: int, *, training: bool) -> Examples:
        """Return the first `rows` examples of a split."""

    def counts(self, epoch: int) -> Real[np.ndarray, " N"] | Counts:
        """Return what each training example adds to the denominator of its step's loss in an epoch, or a function for it."""
        return self.splits["train"].counts

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What a model must know of the data."""

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The tokenizer and the tokenized splits."""
        return self.read()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids."""
        return self.prepared.tokenizer

    @functools.cached_property
    def splits(self) -> dict[str, Examples]:
        """The examples that are used, by the name of the split."""
        found = {name: self._limited(name, "train" if self.limit.overfit else name) for name in self.prepared.splits}
        return {name: examples for name, examples in found.items() if examples is not None}

    def _limited(self, name: str, read_from: str) -> Examples | None:
        split = self._split(read_from)
        rows = len(next(iter(split.tokens.values())))
        return self.examples(split, rows, training=name == "train")

    def _split(self, name: str) -> Split:
        if name not in self.used:
            raise DataError(f"the data has no split {name!r}, only {sorted(self.used)}")
        return self.used[name]

    @functools.cached_property
    def used(self) -> dict[str, Split]:
        """The splits, each with as many of its examples as are used."""
        return {name: self._used(name, split) for name, split in self.prepared.splits.items()}

    def _used(self, name: str, split: Split) -> Split:
        chosen = self.chosen(name, len(next(iter(split.tokens.values()))))
        return split if chosen is None else split.only(chosen)

    def chosen(self, name: str, rows: int) -> Int[np.ndarray, " n"] | None:
        """Return which rows of a split are used, in their order; None: all."""
        limit = getattr(self.limit, name)
        if limit is None or limit >= rows:
            return None
        if name == "train":
            return np.sort(np.argsort(random_keys(rows, mix("limit", self.seed)), kind="stable")[:limit])
        return np.arange(limit) * rows // limit

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of an example as it was read; the epoch is for examples that are others in each."""
        return self._split("train" if self.limit.overfit else split).texts[field][example]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return ids as text, special tokens left out."""
        return self.tokenizer.decode(ids)

    # The plan of training

    def _plan_epoch(self, epoch: int) -> Plan:
        self._split("train")
        lengths = self.splits["train"].lengths
        return Plan.make(
            lengths, seed=self.seed, epoch=epoch, batch=self.batch_size, counts=self.counts(epoch), shuffle=True
        )

    @functools.cached_property
    def clock(self) -> Clock:
        """Converts durations to steps of this plan."""
        plan = self.plan(0)
        return Clock(plan.steps, int(plan.cost.sum()) / plan.steps)

    def tokens_at(self, step: int) -> int:
        """Return the real tokens of the first `step` optimizer updates of a run, each text in its plain segmentation."""
        epoch, step = divmod(step, self.clock.steps_per_epoch)
        plan = self.plan(epoch)
        return epoch * int(plan.cost.sum()) + plan.tokens_before(step)

    def examples_of(self, step: int) -> list[int]:
        """Return the training examples of a step, counted from 1."""
        epoch, step = divmod(step - 1, self.clock.steps_per_epoch)
        return [int(example) for example in self.plan(epoch).examples(step)]

    # Loaders

    def train_dataloader(self) -> PlanLoader:
        """Return the loader of training micro-batches of this process."""
        return self._loader("train", self.plan, self.micro_batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the validation split, in order of length."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the split that is evaluated, in order of length."""
        return self._evaluation_loader(self.evaluated)

    def _evaluation_loader(self, name: str) -> PlanLoader:
        examples = self.splits[name]
        plan = Plan.make(
            examples.lengths, seed=0, epoch=0, batch=self.batch_size, counts=examples.counts, shuffle=False
        )
        return self._loader(name, lambda _: plan, 1)

    def _loader(self, name: str, plan: Any, micro_batches: int) -> PlanLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = PlanSampler(plan, rank=rank, world=world, micro_batches=micro_batches)
        return PlanLoader(self.splits[name], sampler, self.workers if name == "train" else 0)

    def describe(self) -> dict[str, Any]:
        """Return what the record says of the data: rows, dropped rows, fingerprint, tokenizer, batches."""
        return {
            "rows": {name: len(examples.counts) for name, examples in self.splits.items()},
            "dropped": self.prepared.dropped,
            "fingerprint": self.prepared.fingerprint,
            "classes": list(self.prepared.classes),
            "tokenizer": {"vocabulary": self.tokenizer.vocabulary, "fingerprint": self.tokenizer.fingerprint},
            "batch": asdict(self.batch_size),
            "steps_per_epoch": self.clock.steps_per_epoch,
            "tokens_per_step": self.clock.tokens_per_step,
        }
