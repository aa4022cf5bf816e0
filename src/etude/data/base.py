"""Base of all data modules: a corpus prepared once, the plan of training, and loaders that know their position.

Axes: N examples of a split.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
from jaxtyping import Int, Real

from etude.data.loader import BatchStream, Examples, PlanLoader, PlanSampler
from etude.data.order.keyed_plan import KeyedPlan
from etude.data.plan import Counts, EpochPlan, Plan, random_keys
from etude.data.prepare import Corpus, Prepared, Split
from etude.data.sizes import BatchSize, Limit, ShuffleName
from etude.duration import Clock
from etude.errors import ConfigurationError, DataError
from etude.packages import cache_folder
from etude.seeding import mix
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.types import Batch, Facts

AT_ONCE = 1 << 20
"""Examples that are looked at together, where all are."""

PLANS: Mapping[ShuffleName, Callable[..., EpochPlan]] = {"stored": Plan.make, "keyed": KeyedPlan.make}
"""Makers of the plan of an epoch by `batch.shuffle`."""


@dataclass(frozen=True)
class DataSettings:
    """Settings that every data module has, whatever its task: those of the run, and those of the machine.

    Attributes:
        tokenizer: Recipe of the tokenizer, or a finished one.
        seed: Seed of the run, which orders the training data.
        batch: Size of a global batch.
        limit: Number of examples used of each split.
        cache: Folder of prepared data.
        micro_batches: Slices of each step on each process.
        workers: Processes that make training batches, for each process that trains; 0: that process itself.
    """

    tokenizer: TokenizerRecipe | Tokenizer
    seed: int = 0
    batch: BatchSize = field(default_factory=lambda: BatchSize(examples=32))
    limit: Limit = field(default_factory=Limit)
    cache: Path = field(default_factory=cache_folder)
    micro_batches: int = 1
    workers: int = 0


class PlannedData(lightning.LightningDataModule):
    """A corpus, prepared once and served in the order of the plan.

    A task's data module implements `read` (how the corpus is prepared), `examples` (what an example is) and `facts`
    (what a model must know of the data). The corpus is prepared when it is first needed: by Lightning before a loop
    starts, or earlier if a model is built from its facts.

    Attributes:
        evaluated: Split that `test_dataloader` and `predict_dataloader` serve.

    Args:
        corpus: Source of the rows.
        max_length: Longest text in tokens, special tokens included.
        settings: Tokenizer, seed, sizes and cache.
    """

    BATCH: ClassVar[str]
    """Name of the batches' type, which a task's `BATCH` must equal. A literal, so that it is checked before any import."""

    def __init__(self, corpus: Corpus, max_length: int, *, settings: DataSettings) -> None:
        super().__init__()
        self.corpus = corpus
        self.max_length = max_length
        self.settings = settings
        self.evaluated = "test"
        self._plans: dict[int, EpochPlan] = {}
        self._part: Callable[[str, EpochPlan], EpochPlan] = lambda split, plan: plan
        self._training_loader: PlanLoader | None = None

    @abstractmethod
    def read(self) -> Prepared:
        """Return the prepared corpus, from the cache if it is there."""

    @abstractmethod
    def examples(self, split: Split, *, training: bool) -> Examples:
        """Return the examples of a split."""

    def counts(self, epoch: int) -> Real[np.ndarray, " N"] | Counts:
        """Return each training example's share of the denominator of its step's loss in an epoch, or a function for it."""
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
        """The examples of each split, within the limit."""
        overfit = self.settings.limit.overfit
        return {
            name: self.examples(self._split("train" if overfit else name), training=name == "train")
            for name in self.prepared.splits
        }

    @functools.cached_property
    def selected(self) -> dict[str, Split]:
        """The tokenized splits, within the limit."""
        return {name: self._select(name, split) for name, split in self.prepared.splits.items()}

    def _select(self, name: str, split: Split) -> Split:
        rows = self.selection(name, len(split))
        return split if rows is None else split.only(rows)

    def selection(self, name: str, rows: int) -> Int[np.ndarray, " n"] | None:
        """Return the rows of a split that are within the limit, in their order; None: all."""
        limit = getattr(self.settings.limit, name)
        if limit is None or limit >= rows:
            return None
        if name == "train":
            return np.sort(np.argsort(random_keys(rows, mix("limit", self.settings.seed)), kind="stable")[:limit])
        return np.arange(limit) * rows // limit

    def _split(self, name: str) -> Split:
        self._need(name)
        return self.selected[name]

    def _need(self, name: str) -> None:
        """Refuse a split that does not exist."""
        if name not in self.names:
            raise DataError(f"the data has no split {name!r}, only {sorted(self.names)}")

    @property
    def names(self) -> Collection[str]:
        """The names of the splits."""
        return self.prepared.splits

    def fields(self, split: str) -> list[str]:
        """Return the names of the fields that `text` knows."""
        return list(self.prepared.splits[split].texts)

    def parts_of(self, split: str) -> dict[str, range]:
        """Return the examples of each part of a split that is evaluated, by its name; empty where there are no parts."""
        return {}

    def name_of_part_score(self, part: str, score: str) -> str:
        """Return the name of a score of one of `parts_of`."""
        return f"{part}/{score}"

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of an example as it was read; the epoch matters where examples differ from epoch to epoch."""
        return self._split("train" if self.settings.limit.overfit else split).texts[field][example]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return ids as text, without special tokens."""
        return self.tokenizer.decode(ids)

    # The plan of training

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch. The last two that were made are remembered."""
        if epoch not in self._plans:
            self._plans = dict([*self._plans.items()][-1:])
            self._plans[epoch] = self._part("train", self._make_plan(epoch))
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> EpochPlan:
        self._need("train")
        settings = self.settings
        return PLANS[settings.batch.shuffle](
            self.splits["train"].lengths,
            seed=settings.seed,
            epoch=epoch,
            batch=settings.batch,
            counts=self.counts(epoch),
        )

    def shorten(self, part: Callable[[str, EpochPlan], EpochPlan]) -> None:
        """Train and evaluate from now on by a part of each plan, as a rehearsal does; the clock stays that of the whole.

        Args:
            part: Returns what is left of a plan, given the name of its split.
        """
        self.clock  # noqa: B018 (a cached property)
        self._plans, self._part = {}, part

    @functools.cached_property
    def clock(self) -> Clock:
        """Converts durations to steps of this plan."""
        plan = self.plan(0)
        return Clock(plan.steps, plan.tokens / plan.steps)

    def tokens_at(self, step: int) -> int:
        """Return the real tokens of the first `step` optimizer updates of a run, each text in its plain segmentation."""
        epoch, step = divmod(step, self.clock.steps_per_epoch)
        plan = self.plan(epoch)
        return self.tokens_before(epoch) + plan.tokens_before(step)

    def tokens_before(self, epoch: int) -> int:
        """Return the real tokens of all epochs before one."""
        return epoch * self.plan(epoch).tokens

    def read_before(self, epoch: int) -> Iterator[tuple[Int[np.ndarray, " n"], int]]:
        """Yield training examples, some at a time, and how often the epochs before one have read each of them."""
        size = len(self.splits["train"].counts)
        for start in range(0, size if epoch else 0, AT_ONCE):
            yield np.arange(start, min(start + AT_ONCE, size)), epoch

    def examples_of(self, step: int) -> list[int]:
        """Return the training examples of a step, counted from 1."""
        epoch, step = divmod(step - 1, self.clock.steps_per_epoch)
        return [int(example) for example in self.plan(epoch).examples(step)]

    @property
    def micro_batches(self) -> int:
        """Slices of each training step on each process: batches that share a `step_count`."""
        return self.settings.micro_batches

    # Hooks of Lightning

    def prepare_data(self) -> None:
        """Fill the cache, in one process of each machine: the others read it in `setup`."""
        self.prepared  # noqa: B018 (a cached property)

    def setup(self, stage: str) -> None:
        """Open the splits.

        Raises:
            DataError: If the corpus has no split for the stage.
        """
        self._need({"fit": "train", "validate": "val"}.get(stage, self.evaluated))

    def teardown(self, stage: str) -> None:
        """End the worker processes of training."""
        if self._training_loader is not None:
            self._training_loader.end_workers()
            self._training_loader = None

    def train_dataloader(self) -> PlanLoader:
        """Return the loader of training micro-batches of this process."""
        self._training_loader = self._loader("train", self.plan, self.micro_batches, self.settings.workers)
        return self._training_loader

    def val_dataloader(self) -> Iterable[Batch]:
        """Return the loader of the validation split, in order of length, or an empty list if there is no such split."""
        return self._evaluation_loader("val") if "val" in self.splits else []

    def test_dataloader(self) -> PlanLoader:
        """Return the loader of the split that is evaluated, in order of length."""
        return self._evaluation_loader(self.evaluated)

    def predict_dataloader(self) -> Iterable[Batch]:
        """Return the batches of the split that is evaluated, in order of length; their `ids` say which examples they are."""
        return BatchStream(self._evaluation_loader(self.evaluated))

    def _evaluation_loader(self, name: str) -> PlanLoader:
        self._need(name)
        part = self._part(name, self.evaluation_plan(name))
        return self._loader(name, lambda _: part, micro_batches=1)

    def evaluation_plan(self, name: str) -> Plan:
        """Return the plan of a split that is evaluated: its examples in order of length."""
        examples, batch = self.splits[name], self.settings.batch
        return Plan.make(examples.lengths, seed=0, epoch=0, batch=batch, counts=examples.counts, shuffle=False)

    def _loader(self, name: str, plan: Callable[[int], EpochPlan], micro_batches: int, workers: int = 0) -> PlanLoader:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if trainer and world > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigurationError(
                "the plan divides each step among the processes itself; write Trainer(use_distributed_sampler=False)"
            )
        sampler = PlanSampler(plan, rank=rank, world=world, micro_batches=micro_batches)
        return PlanLoader(self.splits[name], sampler, workers)

    def describe(self) -> dict[str, Any]:
        """Return the data's part of a run's record: rows, dropped rows, fingerprint, tokenizer, batches."""
        return {
            "rows": {name: len(examples.counts) for name, examples in self.splits.items()},
            "dropped": self.prepared.dropped,
            "fingerprint": self.prepared.fingerprint,
            "classes": list(self.prepared.classes),
            "tokenizer": {"vocabulary": self.tokenizer.vocabulary, "fingerprint": self.tokenizer.fingerprint},
            "batch": asdict(self.settings.batch),
            "steps_per_epoch": self.clock.steps_per_epoch,
            "tokens_per_step": self.clock.tokens_per_step,
        }
