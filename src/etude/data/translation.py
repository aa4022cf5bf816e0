"""Pairs of texts for sequence-to-sequence tasks: sentences with translations, documents with summaries.

Axes: N examples.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from etude.data.base import DataSettings, PlannedData
from etude.data.directions.prefixed_sources import PrefixedSources
from etude.data.directions.wanted_directions import DIRECTION, WantedDirections, refuse_beside
from etude.data.loader import MixableExamples, Slice, pad, token_mask
from etude.data.plan import Counts, Plan, one_after_another
from etude.data.prepare import Corpus, CorpusTexts, Prepared, Split, finished_tokenizer, prepare
from etude.data.subword_regularization import SampledTokens, Sampling, Tokens
from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts, TranslationBatch

FIELDS = ("source", "target")


class PairOfIds(NamedTuple):
    """The ids of one pair, without what stands around them.

    Attributes:
        source: [s] ids of the source.
        target: [t] ids of the target.
        direction: Index of its direction.
    """

    source: Int[np.ndarray, " s"]
    target: Int[np.ndarray, " t"]
    direction: int


class SentencePairs(MixableExamples):
    """The pairs of a split as batches.

    Attributes:
        lengths: [N, 2] tokens that the encoder reads and the decoder predicts, in the plain segmentation; eos and language
            codes are included.
        counts: [N] target tokens, likewise.

    Args:
        split: The tokenized split.
        facts: The special ids, and the directions, of which the split's labels are indices if there are several.
        sampled: Field -> ids of an example in an epoch, for each field whose segmentation is sampled.
    """

    def __init__(self, split: Split, facts: Facts, sampled: Mapping[str, Tokens] | None = None) -> None:
        source, target = split.tokens["source"], split.tokens["target"]
        self._facts = facts
        self._directions = split.labels if len(facts.all_directions) > 1 else None
        self._rooms = np.array([[way.source_room, way.target_room] for way in facts.all_directions], np.int64)
        rooms = self._rooms[0 if self._directions is None else self._directions]
        self.lengths = np.stack([source.lengths, target.lengths], axis=1) + rooms
        self.counts = self.lengths[:, 1]
        self._plain = {"source": source, "target": target}
        self._sampled = sampled or {}

    def _tokens(self, field: str, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        sampled = self._sampled.get(field)
        return sampled(example, epoch) if sampled else self._plain[field][example]

    def counts_in(self, epoch: int) -> Int[np.ndarray, " N"] | Counts:
        """Return the target tokens of each pair in an epoch, as in `counts`; a function where they are sampled."""
        sampled = self._sampled.get("target")
        if sampled is None:
            return self.counts
        return lambda examples: np.array(
            [len(sampled(int(i), epoch)) + self._rooms[self._direction(i), 1] for i in examples]
        )

    def _direction(self, example: int) -> int:
        return 0 if self._directions is None else int(self._directions[example])

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[PairOfIds]:
        """Return the ids of the source and the target of each pair, and its direction."""
        return [
            PairOfIds(self._tokens("source", i, epoch), self._tokens("target", i, epoch), self._direction(i))
            for i in examples
        ]

    def collate(self, rows: Sequence[PairOfIds], part: Slice) -> TranslationBatch:
        """Return the padded batch of some pairs."""
        facts, ways = self._facts, self._facts.all_directions
        both = [(ways[row.direction], row) for row in rows]
        source = [_around(way.before_source, row.source, way.after_source) for way, row in both]
        inputs = [_around((way.start, *way.before_target), row.target, way.after_target[:-1]) for way, row in both]
        labels = pad([_around(way.before_target, row.target, way.after_target) for way, row in both], IGNORED)
        ids = torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        return TranslationBatch(
            source=pad(source, facts.pad),
            source_mask=token_mask(source),
            inputs=pad(inputs, facts.pad),
            labels=labels,
            target_mask=token_mask(inputs),
            step_count=part.denominator,
            ids=ids,
            directions=torch.tensor([row.direction for row in rows]) if len(ways) > 1 else None,
        )


def _around(before: tuple[int, ...], ids: Int[np.ndarray, " n"], after: tuple[int, ...]) -> Int[np.ndarray, " m"]:
    """Return ids with those before and behind them; `Direction` says the same of lists."""
    return np.concatenate((np.array(before, np.int64), ids, np.array(after, np.int64)))


@runtime_checkable
class ReferencedCorpus(Protocol):
    """A corpus whose rows also have the field `references`: a JSON list of texts, the first of them the `target`."""

    FIELDS_AS_TEXT: ClassVar[tuple[str, ...]]


@runtime_checkable
class DirectedCorpus(Protocol):
    """A corpus whose rows also have the field `direction`.

    Attributes:
        directions: The names of the directions.
    """

    directions: Collection[str]


class TranslationData(PlannedData):
    """Pairs of texts from a corpus with the fields `source` and `target`, in one vocabulary or in two.

    Longer texts of val and test are truncated and counted, since a score is over every row. With `pairs`, each row names
    its direction in the field `direction`; the rows of a split stand direction by direction, each of which is a part with
    scores of its own.

    Args:
        corpus: Source of the rows; a `ReferencedCorpus` has several references for each.
        max_length: Longest text in tokens, special tokens included.
        overflow: Whether a training pair with a longer text is dropped, as in translation, where a truncated source no
            longer means what its target does, or truncated, as in summarization. It is counted in either case.
        sampling: How segmentations are sampled in training; None: every text has one segmentation.
        source_language: Language of the sources, as the tokenizer of a pretrained model names it; None: none is written.
        target_language: Language of the targets.
        source_prefix: Text before each source, as T5 takes it; with `pairs`, by the names of the pairs.
        pairs: Names of several directions, such as `en-de`; None: all rows have the same.
        languages: The tokenizer's names of the languages in `pairs`; those that are left out have the same name.
        settings: As in `PlannedData`.
    """

    BATCH: ClassVar[str] = "TranslationBatch"

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        overflow: Literal["drop", "truncate"] = "drop",
        sampling: Sampling | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        source_prefix: str | Mapping[str, str] | None = None,
        pairs: Sequence[str] | None = None,
        languages: Mapping[str, str] | None = None,
        *,
        settings: DataSettings,
    ) -> None:
        super().__init__(corpus, max_length, settings=settings)
        if pairs is None:
            self.wanted = WantedDirections.of_one(source_language, target_language, source_prefix)
            refuse_beside("data.pairs=null", languages=languages)
        else:
            self.wanted = WantedDirections.of_pairs(pairs, languages, source_prefix)
            refuse_beside("data.pairs", source_language=source_language, target_language=target_language)
            if not isinstance(corpus, DirectedCorpus):
                raise ConfigurationError(
                    f"data.pairs is given, but rows of {type(corpus).__name__} name no direction; write data=directions "
                    f"data.root=FOLDER data.pairs=[{','.join(pairs)}]"
                )
        self.overflow = overflow
        self.sampling = sampling
        self._has_references = isinstance(corpus, ReferencedCorpus)

    def read(self) -> Prepared:
        """Return the tokenized corpus.

        Raises:
            ConfigurationError: If the tokenizer does not write the directions that are wanted.
        """
        wanted, settings = self.wanted, self.settings
        corpus = PrefixedSources(self.corpus, wanted.prefixes) if wanted.prefixes else self.corpus
        texts, read = CorpusTexts(corpus, FIELDS), (corpus.fingerprint(), FIELDS)
        tokenizer = finished_tokenizer(wanted.tokenizer(settings.tokenizer), texts, read, settings.cache)
        prepared = prepare(
            corpus,
            tokenizer,
            text_fields=FIELDS,
            label_field=DIRECTION if wanted.several else None,
            classes=wanted.names if wanted.several else None,
            max_length=self.max_length - self._room(tokenizer),
            overflow=self.overflow,
            cache=settings.cache,
            fields_as_text=("references",) if self._has_references else (),
        )
        return dataclasses.replace(prepared, classes=())

    def _room(self, tokenizer: Tokenizer) -> int:
        """Return the number of ids that a text must leave for what stands around it."""
        ways = facts_of(tokenizer, self.wanted).all_directions
        return max(max(way.source_room, way.target_room) for way in ways)

    def references(self, split: str, example: int) -> list[str]:
        """Return the reference outputs of an example, as they were read; the first is its target."""
        if self._has_references:
            return list(json.loads(self.text(split, "references", example)))
        return [self.text(split, "target", example)]

    def examples(self, split: Split, *, training: bool) -> SentencePairs:
        """Return the pairs of a split; in training, in sampled segmentations if there is a sampling.

        Raises:
            DataError: If the rows of a direction do not stand together.
        """
        if self.wanted.several and (np.diff(np.asarray(split.labels)) < 0).any():
            raise DataError(
                f"rows of {type(self.corpus).__name__} stand in another order than the directions of data.pairs, one after "
                "the other"
            )
        return SentencePairs(split, self.facts, self._sampled(split) if training else None)

    def _sampled(self, split: Split) -> dict[str, Tokens]:
        segmenters = self.sampling.segmenters(self.tokenizer) if self.sampling else {}
        return {
            field: SampledTokens(
                split.tokens[field],
                split.texts[field],
                self.tokenizer.of(field),
                segmenter,
                key=(self.settings.seed, field),
                max_length=self.max_length - self._room(self.tokenizer),
            )
            for field, segmenter in segmenters.items()
        }

    def counts(self, epoch: int) -> Int[np.ndarray, " N"] | Counts:
        """Return the target tokens of each training pair in an epoch, eos included."""
        return cast(SentencePairs, self.splits["train"]).counts_in(epoch)

    @functools.cached_property
    def facts(self) -> Facts:
        """The vocabulary, the ids of pad, bos and eos, and the directions."""
        return facts_of(self.tokenizer, self.wanted)

    def describe(self) -> dict[str, Any]:
        """Add the rows of each direction, if there are several."""
        if not self.wanted.several:
            return super().describe()
        parts = {split: self.parts_of(split) for split in self.splits}
        rows = {
            name: {split: len(found[name]) for split, found in parts.items() if name in found}
            for name in self.wanted.names
        }
        return {**super().describe(), "directions": rows}

    # Several directions

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of an example as it was read, without the prefix that the model reads before a source."""
        text = super().text(split, field, example, epoch)
        if field != "source" or not self.wanted.prefixes:
            return text
        return text.removeprefix(f"{self.facts.all_directions[self._direction_of(split, example)].prefix} ")

    def _labels(self, split: str) -> Int[np.ndarray, " N"] | None:
        """Return the direction of each example of a split; None: there is one."""
        if not self.wanted.several:
            return None
        labels: Any = self._split("train" if self.settings.limit.overfit else split).labels
        return np.asarray(labels)

    def _direction_of(self, split: str, example: int) -> int:
        labels = self._labels(split)
        return 0 if labels is None else int(labels[example])

    def parts_of(self, split: str) -> dict[str, range]:
        """Return the examples of each direction of a split, by its name; empty where there is a single direction."""
        labels = self._labels(split)
        if labels is None:
            return {}
        starts = np.searchsorted(labels, np.arange(len(self.wanted.names) + 1))
        ranges = {
            name: range(int(first), int(end))
            for name, first, end in zip(self.wanted.names, starts, starts[1:], strict=False)
        }
        return {name: examples for name, examples in ranges.items() if examples}

    def name_of_part_score(self, part: str, score: str) -> str:
        """Return the name of a direction's score, such as `bleu_en-de`."""
        return f"{score}_{part}"

    def evaluation_plan(self, name: str) -> Plan:
        """Return the plan of a split that is evaluated: one direction after the other, each in order of length."""
        examples, parts = self.splits[name], list(self.parts_of(name).values())
        if not parts:
            return super().evaluation_plan(name)
        plans = [
            Plan.make(
                examples.lengths[part.start : part.stop],
                seed=0,
                epoch=0,
                batch=self.settings.batch,
                counts=examples.counts[part.start : part.stop],
                shuffle=False,
            )
            for part in parts
        ]
        return one_after_another(plans, [part.start for part in parts], examples.counts)


def facts_of(tokenizer: Tokenizer, wanted: WantedDirections) -> Facts:
    """Return what a sequence-to-sequence model must know of a tokenizer and of the directions.

    Raises:
        ConfigurationError: If the tokenizer does not write the directions.
    """
    separate = None if tokenizer.shares_ids else tokenizer.of("source").vocabulary
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos)
    directions = wanted.directions(tokenizer)
    return Facts(tokenizer.vocabulary, *special, source_vocabulary=separate, directions=directions)
