"""A mixture of corpora: each step has examples of all of them, by weights that are exact.

Axes: A parts, N numbers of examples (see `Numbering`).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from etude.data.base import DataSettings, PlannedData
from etude.data.corpora.holdout import digest
from etude.data.loader import Examples, MixableExamples
from etude.data.mixing.mixed_examples import MixedExamples
from etude.data.mixing.shared_tokenizer import JoinedCorpus, SharedRecipe
from etude.data.order.draws import OUT_OF, Draws, apportioned
from etude.data.order.keyed_plan import KeyedPlan
from etude.data.plan import Counts, Plan, one_after_another
from etude.data.prepare import Corpus, Prepared, Split
from etude.errors import ConfigurationError
from etude.seeding import mix
from etude.tokenization.base import Tokenizer
from etude.types import Exchange, Facts


class MixtureData(PlannedData):
    """Several corpora as one kind of data, mixed by weights.

    Training draws from an endless row of examples: in each block of it, every part has as many places as its weight. A part
    gives all its examples before any comes again. An epoch is a number of whole blocks. The parts are evaluated one after the
    other, and each is scored by itself besides. All have the same tokenizer; one that is trained reads the texts of all. A
    limit counts in each part.

    Args:
        of: Makes the data of a part, given its corpus.
        parts: Corpora by name.
        weights: Places of each part in a block, whole numbers; None: by `temperature`.
        temperature: Weights are sizes to the power of its inverse: 1 takes parts as they are, and the higher it is, the more
            equal they become. None: by `weights`.
        epoch_examples: Examples of an epoch, a multiple of the block; None: as many as the parts have together, and so many
            more that the last block is whole.
        settings: As in `PlannedData`, with a keyed shuffle and a pool.

    Raises:
        ConfigurationError: If the parts, their weights or the settings do not fit together.
    """

    def __init__(
        self,
        of: Callable[..., PlannedData],
        parts: Mapping[str, Corpus],
        weights: Mapping[str, int] | None = None,
        temperature: float | None = None,
        epoch_examples: int | None = None,
        *,
        settings: DataSettings,
    ) -> None:
        _check(parts, weights, temperature, settings)
        corpus = JoinedCorpus(parts)
        tokenizer = settings.tokenizer
        shared = tokenizer if isinstance(tokenizer, Tokenizer) else SharedRecipe(tokenizer, corpus)
        self._of = of
        self._first = next(iter(parts))
        self._leader = self._made(self._first, parts[self._first], replace(settings, tokenizer=shared))
        super().__init__(corpus, self._leader.max_length, settings=settings)
        self._corpora = parts
        self._weights = weights
        self._temperature = temperature
        self._epoch_examples = epoch_examples
        self._tokens_before = {0: 0}

    def _made(self, name: str, corpus: Corpus, settings: DataSettings) -> PlannedData:
        return self._of(corpus=corpus, settings=replace(settings, seed=mix("part", settings.seed, name)))

    @functools.cached_property
    def parts(self) -> dict[str, PlannedData]:
        """The data of each part; the first one's tokenizer is that of all.

        Raises:
            ConfigurationError: If the parts have other classes or labels than each other.
        """
        settings = replace(self.settings, tokenizer=self._leader.tokenizer)
        parts = {self._first: self._leader}
        for name, corpus in self._corpora.items():
            if name != self._first:
                parts[name] = self._made(name, corpus, settings)
            if parts[name].facts != self._leader.facts:
                raise ConfigurationError(
                    f"data.parts.{name} has other classes, labels or texts than data.parts.{self._first}: a mixture is of "
                    "parts with the same"
                )
        return parts

    def read(self) -> Prepared:
        """Return what the parts have in common; their splits stay with them."""
        dropped: dict[str, Counter[str]] = {}
        for data in self.parts.values():
            for split, reasons in data.prepared.dropped.items():
                dropped[split] = dropped.get(split, Counter()) + Counter(reasons)
        prepared = [data.prepared for data in self.parts.values()]
        shares = {name: int(places) for name, places in zip(self.parts, self.draws.places, strict=True)}
        fingerprint = digest("MixtureData 1", shares, *(one.fingerprint for one in prepared))
        return Prepared(
            self._leader.tokenizer,
            {},
            prepared[0].classes,
            fingerprint,
            {split: dict(reasons) for split, reasons in dropped.items()},
        )

    def examples(self, split: Split, *, training: bool) -> Examples:
        """Return the examples of a tokenized split, made as each part makes its own."""
        return self._leader.examples(split, training=training)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all parts."""
        return self._leader.tokenizer

    @property
    def facts(self) -> Facts:
        """What a model must know of each of the parts."""
        self.parts  # noqa: B018 (a cached property, which compares them)
        return self._leader.facts

    @property
    def names(self) -> list[str]:
        """The splits that any of the parts has."""
        return [name for name in self.corpus.splits() if self._having(name)]

    def _having(self, split: str) -> dict[str, PlannedData]:
        """Return the parts that have a split."""
        return {name: data for name, data in self.parts.items() if split in data.names}

    @functools.cached_property
    def splits(self) -> dict[str, Any]:
        """The examples of each split, within the limit."""
        mixed: dict[str, Any] = {}
        for name in self.names:
            having = self._having(name)
            found = [_mixable(part, data, name) for part, data in having.items()]
            if name == "train":
                mixed[name] = MixedExamples(found, self._each_epoch.tolist())
            else:
                mixed[name] = MixedExamples(found, [0] * len(found))
        return mixed

    # Training

    @functools.cached_property
    def draws(self) -> Draws:
        """The endless row of the training examples."""
        sizes = [len(data.splits["train"].counts) for data in self.parts.values()]
        if self._weights is not None:
            weights = [self._weights[name] for name in self.parts]
        else:
            weights = apportioned(sizes, self._temperature or 1.0)
            for name, weight in zip(self.parts, weights, strict=True):
                if not weight:
                    raise ConfigurationError(
                        f"data.temperature={self._temperature} leaves data.parts.{name} less than one example in {OUT_OF:,}; "
                        "write a higher one, or data.weights"
                    )
        keys = [data.settings.seed for data in self.parts.values()]
        return Draws(sizes, weights, keys, mix("blocks", self.settings.seed))

    @functools.cached_property
    def epoch_examples(self) -> int:
        """Examples of an epoch."""
        block = self.draws.block
        wanted = int(self.draws.sizes.sum()) if self._epoch_examples is None else self._epoch_examples
        whole = -(-wanted // block) * block
        if self._epoch_examples not in (None, whole):
            raise ConfigurationError(
                f"data.epoch_examples={wanted} is not a multiple of {block}, the examples of a block; write {whole}"
            )
        return whole

    @functools.cached_property
    def _each_epoch(self) -> Int[np.ndarray, " A"]:
        """Examples of each part in an epoch."""
        return self.draws.places * (self.epoch_examples // self.draws.block)

    def counts(self, epoch: int) -> Counts:
        """Return the function from numbers to shares of the denominator of their step's loss."""
        parts = list(self.parts.values())

        @functools.lru_cache(64)
        def of_part(part: int, own_epoch: int) -> Callable[[Any], Any]:
            counts = parts[part].counts(own_epoch)
            return counts.__getitem__ if isinstance(counts, np.ndarray) else counts

        return self._training.counts_in(epoch, of_part)

    @property
    def _training(self) -> MixedExamples:
        self._need("train")
        examples: MixedExamples = self.splits["train"]
        return examples

    def _make_plan(self, epoch: int) -> KeyedPlan:
        examples, begin = self._training, epoch * self.epoch_examples

        def row(positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
            return examples.numbering.of(*self.draws.at(positions + begin), epoch)

        return KeyedPlan.make(
            examples.lengths,
            seed=self.settings.seed,
            epoch=epoch,
            batch=self.settings.batch,
            counts=self.counts(epoch),
            row=row,
            size=self.epoch_examples,
            steps=self._steps,
        )

    @functools.cached_property
    def _steps(self) -> int:
        """Steps of every epoch: as many as examples of mean length make, since each epoch draws others."""
        parts = [data.splits["train"].lengths for data in self.parts.values()]
        costs = [lengths.reshape(len(lengths), -1).sum(axis=1) for lengths in parts]
        tokens = sum(int(n) * int(cost.sum()) // len(cost) for n, cost in zip(self._each_epoch, costs, strict=True))
        return self.settings.batch.steps_of(self.epoch_examples, tokens, max(int(cost.max()) for cost in costs))

    def read_before(self, epoch: int) -> Iterator[tuple[Int[np.ndarray, " n"], int]]:
        """Yield numbers of training examples, and how often the epochs before one have read each of them."""
        starts = self._training.numbering.starts
        for part, (size, drawn) in enumerate(zip(self.draws.sizes, epoch * self._each_epoch, strict=True)):
            times, rest = divmod(int(drawn), int(size))
            if times:
                yield starts[part] + np.arange(size), times
            if rest:
                yield starts[part] + self.draws.order(part, times)(np.arange(rest)), 1

    def tokens_before(self, epoch: int) -> int:
        """Return the real tokens of all epochs before one."""
        if epoch not in self._tokens_before:
            lengths, read = self._training.lengths, self.read_before(epoch)
            self._tokens_before[epoch] = sum(times * int(lengths[numbers].sum()) for numbers, times in read)
        return self._tokens_before[epoch]

    # Evaluation

    def parts_of(self, split: str) -> dict[str, range]:
        """Return the examples of each part of a split that is evaluated, by its name."""
        numbering = self.splits[split].numbering
        return {name: numbering.range_of(place) for place, name in enumerate(self._having(split))}

    def evaluation_plan(self, name: str) -> Plan:
        """Return the plan of a split that is evaluated: one part after the other, each in order of length."""
        plans = [data.evaluation_plan(name) for data in self._having(name).values()]
        firsts = [numbers.start for numbers in self.parts_of(name).values()]
        return one_after_another(plans, firsts, self.splits[name].counts)

    # Texts

    def _located(self, split: str, number: int, epoch: int) -> tuple[PlannedData, int, int]:
        """Return the part that has a number, the example in it, and its epoch."""
        having = list(self._having(split).values())
        numbered = self.splits[split].numbering.read(np.array([number]), epoch)
        return having[int(numbered.parts[0])], int(numbered.examples[0]), int(numbered.epochs[0])

    def fields(self, split: str) -> list[str]:
        """Return the names of the fields that `text` knows."""
        return next(iter(self._having(split).values())).fields(split)

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of an example as it was read."""
        data, inner, own_epoch = self._located(split, example, epoch)
        return data.text(split, field, inner, own_epoch)

    def references(self, split: str, example: int) -> list[str]:
        """Return the reference outputs of an example; of data that has such."""
        data, inner, _ = self._located(split, example, 0)
        found: list[str] = data.references(split, inner)  # type: ignore[attr-defined]
        return found

    def exchange(self, split: str, example: int) -> Exchange:
        """Return the last exchange of a conversation that is evaluated; of data that has such."""
        data, inner, _ = self._located(split, example, 0)
        found: Exchange = data.exchange(split, inner)  # type: ignore[attr-defined]
        return found

    def bytes_per_token(self, split: str) -> float:
        """Return the mean bytes of text per token of a split; of language modelling data."""
        read_from = "train" if self.settings.limit.overfit else split
        text_bytes = tokens = 0
        for data in self._having(read_from).values():
            rows = data.prepared.splits[read_from]
            text_bytes += rows.texts["text"].content.values.size
            tokens += rows.tokens["text"].values.size
        return text_bytes / tokens

    def describe(self) -> dict[str, Any]:
        """Add the parts: rows, share of the training, and how often an epoch reads each."""
        rows = {
            name: {split: len(one.counts) for split, one in data.splits.items()} for name, data in self.parts.items()
        }
        parts = {
            name: {
                "rows": rows[name],
                "share": float(self.draws.places[place] / self.draws.block),
                "times_an_epoch": float(self._each_epoch[place] / self.draws.sizes[place]),
            }
            for place, name in enumerate(self.parts)
        }
        total = {split: sum(counts.get(split, 0) for counts in rows.values()) for split in self.splits}
        return {**super().describe(), "rows": total, "epoch_examples": self.epoch_examples, "parts": parts}


def _mixable(name: str, data: PlannedData, split: str) -> MixableExamples:
    examples = data.splits[split]
    if not isinstance(examples, MixableExamples):
        raise ConfigurationError(
            f"data.of._target_={type(data).__name__} cannot be mixed: its batches are not made of single rows (data.parts.{name})"
        )
    return examples


def _check(
    parts: Mapping[str, Corpus], weights: Mapping[str, int] | None, temperature: float | None, settings: DataSettings
) -> None:
    """Refuse what does not fit together."""
    if not parts:
        raise ConfigurationError(
            "data.parts is empty: a mixture is of corpora by name; write data.parts.NAME={_target_: …}"
        )
    if settings.batch.shuffle != "keyed" or settings.batch.pool is None:
        raise ConfigurationError("a mixture is drawn a pool at a time; write batch.shuffle=keyed batch.pool=50")
    for name in parts:
        if not name.replace("-", "_").isidentifier():
            raise ConfigurationError(f"data.parts has {name!r}, which is no name of letters, digits, - and _")
    if (weights is None) == (temperature is None):
        given = "both are" if weights is not None else "neither is"
        names = ", ".join(f"{name}: 1" for name in parts)
        raise ConfigurationError(
            f"of data.weights and data.temperature, {given} given; write 'data.weights={{{names}}}', or data.temperature=1 for "
            "shares by size"
        )
    if temperature is not None and temperature <= 0:
        raise ConfigurationError(
            f"data.temperature={temperature} is not positive; write 1, or more for more equal shares"
        )
    if weights is not None and set(weights) != set(parts):
        raise ConfigurationError(f"data.weights is of {', '.join(weights)}, but data.parts are {', '.join(parts)}")
    for name, weight in (weights or {}).items():
        if weight < 1:
            raise ConfigurationError(
                f"data.weights.{name}={weight} is less than 1: write whole numbers, or ~data.parts.{name}"
            )
