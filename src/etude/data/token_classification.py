"""Sentences whose words have a class each: parts of speech, or the tags of named entities.

Axes: N parts, S sentences.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Int

from etude.data.base import DataSettings, PlannedData
from etude.data.cache import Ragged, cached
from etude.data.loader import Slice, framed, pad, token_mask
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.readers.labels import WordLabels
from etude.errors import ConfigurationError
from etude.growing import RaggedWriter
from etude.metrics.tagging import SCHEMES, SchemeName, TagScheme
from etude.tokenization.base import Tokenizer
from etude.tokenization.word_tokens import BETWEEN, divided, encode_words
from etude.types import IGNORED, Facts, TokenClassificationBatch

FORMAT = 1
"""Version of the stored files; folders of another version are not read."""

WHOLE = 1 << 31
"""More tokens than any sentence has: sentences are stored whole, and divided when a batch is made."""

ENCODED_AT_ONCE = 1000
"""Sentences that are encoded together."""


@dataclass(frozen=True)
class WordTags:
    """The first tokens of the words of a split's sentences, and their classes.

    Attributes:
        firsts: For each sentence, the first token of each word; -1 if it has none.
        tags: For each sentence, the class of each word.
        numbers: [S] words that have a token.
    """

    firsts: Ragged
    tags: Ragged
    numbers: Int[np.ndarray, " S"]

    def only(self, rows: Int[np.ndarray, " n"]) -> WordTags:
        """Return those of some of the sentences, in the given order."""
        return WordTags(self.firsts.only(rows), self.tags.only(rows), self.numbers[rows])


def align_words(prepared: Prepared, cache: Path, scheme: TagScheme | None = None) -> dict[str, WordTags]:
    """Return the words' tokens and classes in each split, from the cache if they are there.

    Args:
        prepared: A corpus with the fields `text` and `tags` as texts.
        cache: Folder of prepared data.
        scheme: Scheme of the tags: a span goes on where one of its words has no token.

    Raises:
        StorageError: If the cache cannot be written.
    """

    def build(folder: Path) -> None:
        for name, split in prepared.splits.items():
            (folder / name).mkdir()
            _write_words(split, prepared.tokenizer, prepared.classes, scheme, folder / name)

    folder = cached(
        Path(cache).expanduser() / "words", f"{FORMAT}-{scheme.name if scheme else 'any'}-{prepared.fingerprint}", build
    )
    return {
        name: WordTags(
            Ragged(folder / name / "firsts", np.int32),
            Ragged(folder / name / "tags", np.int32),
            np.load(folder / name / "numbers.npy"),
        )
        for name in prepared.splits
    }


def _write_words(
    split: Split, tokenizer: Tokenizer, classes: Sequence[str], scheme: TagScheme | None, folder: Path
) -> None:
    """Write the words of a split into its folder."""
    ids = {name: number for number, name in enumerate(classes)}
    texts, tags = split.texts["text"], split.texts["tags"]
    numbers = list[int]()
    with RaggedWriter(folder / "firsts", np.int32) as firsts, RaggedWriter(folder / "tags", np.int32) as labels:
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            rows = range(start, min(start + ENCODED_AT_ONCE, len(texts)))
            encoded = encode_words(tokenizer, [texts[row].split(BETWEEN) for row in rows])
            for row, words in zip(rows, encoded, strict=True):
                has_token = words.firsts >= 0
                firsts.append(words.firsts.tolist())
                numbers.append(int(has_token.sum()))
                labels.append([ids[name] for name in _tags_left(json.loads(tags[row]), has_token, scheme, ids)])
    np.save(folder / "numbers.npy", np.array(numbers, np.int64))


def _tags_left(
    tags: list[str], has_token: Bool[np.ndarray, " W"], scheme: TagScheme | None, known: Container[str]
) -> list[str]:
    """Return the tags of a sentence, in which a span goes on without the words that have no token."""
    if scheme is None or has_token.all():
        return tags
    repaired = iter(scheme.repaired([tag for tag, kept in zip(tags, has_token, strict=True) if kept]))
    left = [next(repaired) if kept else tag for tag, kept in zip(tags, has_token, strict=True)]
    return [new if new in known else old for new, old in zip(left, tags, strict=True)]


class _Parts(NamedTuple):
    """The parts of all sentences.

    Attributes:
        sentences: [N] sentence of each part.
        tokens: [N, 2] its first token, and one past its last.
        words: [N, 2] its first word, of those that have a token, and one past its last.
        cut: [N] whether tokens of its only word are left out.
    """

    sentences: Int[np.ndarray, " N"]
    tokens: Int[np.ndarray, "N 2"]
    words: Int[np.ndarray, "N 2"]
    cut: Bool[np.ndarray, " N"]


def _divide(split: Split, words: WordTags, room: int) -> _Parts:
    """Return the parts of all sentences; most are whole, and those are not looked at one by one."""
    sizes = split.tokens["text"].lengths
    whole = np.flatnonzero((sizes <= room) & (words.numbers > 0))
    nothing = np.zeros_like(whole)
    found = [
        (row, *part)
        for row in np.flatnonzero((sizes > room) & (words.numbers > 0)).tolist()
        for part in divided(_with_tokens(words.firsts[row]), int(sizes[row]), room)
    ]
    columns = np.stack([whole, nothing, sizes[whole], nothing, words.numbers[whole], nothing], axis=1)
    table = np.concatenate([columns, np.array(found, np.int64).reshape(-1, 6)])
    table = table[np.argsort(table[:, 0], kind="stable")]
    return _Parts(table[:, 0], table[:, 1:3], table[:, 3:5], table[:, 5].astype(bool))


def _with_tokens(firsts: Int[np.ndarray, " W"]) -> Int[np.ndarray, " w"]:
    return np.asarray(firsts[firsts >= 0], np.int64)


class TaggedParts:
    """The sentences of a split as batches; one that is too long is divided between words.

    Attributes:
        lengths: [N] tokens of each part, special ones included.
        counts: [N] words of each part: each has a loss, at its first token.
        sentences: [N] sentence of each part.

    Args:
        split: The tokenized split.
        words: Its words.
        facts: The special ids.
        room: Most tokens of a part, without special ones.
    """

    def __init__(self, split: Split, words: WordTags, facts: Facts, room: int) -> None:
        self._split, self._words, self._facts = split, words, facts
        self.parts = _divide(split, words, room)
        self.sentences = self.parts.sentences
        self.lengths = np.diff(self.parts.tokens, axis=1)[:, 0] + 2
        self.counts = np.diff(self.parts.words, axis=1)[:, 0]

    def batch(self, part: Slice) -> TokenClassificationBatch:
        """Return the padded batch of a slice."""
        rows, targets = zip(*(self._row(int(example)) for example in part.examples), strict=True)
        labels, ids = pad(targets, IGNORED), torch.from_numpy(part.examples.astype(np.int64))
        sentences = torch.from_numpy(self.sentences[part.examples])
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        mask = token_mask(rows)
        return TokenClassificationBatch(pad(rows, self._facts.pad), mask, labels, part.denominator, ids, sentences)

    def _row(self, example: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the ids of a part, special ones included, and its labels."""
        sentence, (start, end) = self.sentences[example], self.parts.tokens[example]
        firsts, tags = self._words.firsts[sentence], self._words.tags[sentence]
        kept, words = firsts >= 0, slice(*self.parts.words[example])
        labels = np.full(end - start + 2, IGNORED, np.int64)
        labels[firsts[kept][words] - start + 1] = tags[kept][words]
        return framed(self._split.tokens["text"][sentence][start:end], self._facts.bos, self._facts.eos), labels


class TokenClassificationData(PlannedData):
    """Sentences from a corpus with the fields `text` (its words with a space between them) and `tags` (a JSON list).

    An example is a sentence, or a part of one that is longer than `max_length`, divided between words; a limit counts
    sentences. A word that the tokenizer represents by nothing is left out, and counted.

    Args:
        corpus: Source of the sentences.
        max_length: Most tokens of a part, special tokens included.
        scheme: Scheme of the tags, if they write spans: a span goes on where a word of it is left out.
        settings: As in `PlannedData`.

    Raises:
        ConfigurationError: If `max_length` leaves no room for a word.
    """

    BATCH: ClassVar[str] = "TokenClassificationBatch"

    def __init__(
        self, corpus: Corpus, max_length: int, scheme: SchemeName | None = None, *, settings: DataSettings
    ) -> None:
        super().__init__(corpus, max_length, settings=settings)
        if max_length < 3:
            raise ConfigurationError(f"data.max_length={max_length} leaves no room for a word; write 3 or more")
        self.scheme = None if scheme is None else SCHEMES[scheme]
        self._all_words: dict[str, WordTags] = {}

    @property
    def room(self) -> int:
        """Most tokens of a part, without special ones."""
        return self.max_length - 2

    def read(self) -> Prepared:
        """Return the tokenized sentences; what they lose is counted with the dropped rows."""
        prepared = prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("text",),
            label_field="tags",
            labels=WordLabels,
            max_length=WHOLE,
            overflow="truncate",
            cache=self.settings.cache,
            fields_as_text=("tags",),
        )
        self._all_words = align_words(prepared, self.settings.cache, self.scheme)
        dropped = {name: {**prepared.dropped[name], **self._lost(prepared, name)} for name in prepared.splits}
        return replace(prepared, dropped=dropped)

    def _lost(self, prepared: Prepared, name: str) -> dict[str, int]:
        """Return the number of words or sentences of a split that lose something, by what they lose."""
        split, words = prepared.splits[name], self._all_words[name]
        parts = _divide(split, words, self.room)
        _, numbers = np.unique(parts.sentences, return_counts=True)
        without = int((words.numbers < words.firsts.lengths).sum())
        counts = {
            "with words that have no token, which are left out": without,
            "of words that have no token, left out": len(split) - len(numbers),
            f"of more than {self.max_length} tokens, divided between words": int((numbers > 1).sum()),
            "with a word of more tokens than there is room for, cut": int(parts.cut.sum()),
        }
        return {reason: count for reason, count in counts.items() if count}

    def examples(self, split: Split, *, training: bool) -> TaggedParts:
        """Return the sentences of a split, or their parts."""
        words = next(self.words[name] for name, other in self.selected.items() if other is split)
        return TaggedParts(split, words, self.facts, self.room)

    @functools.cached_property
    def words(self) -> dict[str, WordTags]:
        """The words of each split, within the limit."""
        selected = {}
        for name, split in self.prepared.splits.items():
            rows, words = self.selection(name, len(split)), self._all_words[name]
            selected[name] = words if rows is None else words.only(rows)
        return selected

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of the sentence of a part."""
        return super().text(split, field, int(self._parts(split).sentences[example]), epoch)

    def words_of(self, split: str, sentence: int) -> list[str]:
        """Return the words of a sentence that have a token, as they were read."""
        read_from = "train" if self.settings.limit.overfit else split
        words = np.array(self.selected[read_from].texts["text"][sentence].split(BETWEEN), object)
        return list(words[self.words[read_from].firsts[sentence] >= 0])

    @property
    def facts(self) -> Facts:
        """The vocabulary, the special ids and the classes."""
        tokenizer = self.tokenizer
        special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
        return Facts(tokenizer.vocabulary, *special, self.prepared.classes)

    def describe(self) -> dict[str, Any]:
        """Add the numbers of sentences and of words."""
        return {
            **super().describe(),
            "sentences": {name: len(np.unique(self._parts(name).sentences)) for name in self.splits},
            "words": {name: int(self._parts(name).counts.sum()) for name in self.splits},
        }

    def _parts(self, split: str) -> TaggedParts:
        return cast(TaggedParts, self.splits[split])
