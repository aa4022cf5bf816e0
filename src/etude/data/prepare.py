"""From a corpus to encoded examples in the cache: streaming, once, and the same for every process that asks.

The cache's keys are hashes of the corpus' content, the tokenizer and all settings, so that nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from etude.data.cache import Ragged, TextColumn, TextColumns, cached
from etude.data.encode import Encoding, encode_split, token_type
from etude.data.labels import ClassLabels, Labels
from etude.data.readers.sources import Dropped, Row
from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import Tokenizer, TokenizerRecipe

FORMAT = 1
"""Version of what is written; a new one leaves the folders of the old one unread."""

logger = logging.getLogger(__name__)


class Corpus(Protocol):
    """Where rows come from."""

    @property
    def dropped(self) -> Counter[str]:
        """How many rows were left out so far, by reason, over everything read."""

    def fingerprint(self) -> str:
        """Return a hash of the content and of the settings that choose it; never of where it is."""

    def splits(self) -> tuple[str, ...]:
        """Return those of train, val, test that there are, in this order."""

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split, streaming."""


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
        tokens: Field -> ids of each example, without special tokens.
        texts: Field -> the text of the row that each example comes from, as read.
        labels: [N] class ids or numbers, [N, C] zeros and ones; None where no label was asked for.
    """

    tokens: dict[str, Ragged]
    texts: TextColumns
    labels: npt.NDArray[Any] | None

    def only(self, chosen: npt.NDArray[np.int64]) -> Split:
        """Return some of the examples, in a given order."""
        return Split(
            {field: tokens.only(chosen) for field, tokens in self.tokens.items()},
            TextColumns({field: column.only(chosen) for field, column in self.texts.items()}),
            None if self.labels is None else self.labels[chosen],
        )


@dataclass(frozen=True)
class Prepared:
    """A corpus in ids.

    Attributes:
        tokenizer: What made the ids.
        splits: The examples by split.
        classes: Names of the classes in the order of their ids.
        fingerprint: Hash of everything that determines the examples.
        dropped: Split -> reason -> how many rows were dropped; `truncated` counts those that were cut.
    """

    tokenizer: Tokenizer
    splits: dict[str, Split]
    classes: tuple[str, ...]
    fingerprint: str
    dropped: dict[str, dict[str, int]]


def prepare(
    corpus: Corpus,
    tokenizer: TokenizerRecipe | Tokenizer,
    *,
    text_fields: tuple[str, ...],
    label_field: str | None = None,
    max_length: int,
    overflow: str,
    cache: Path,
    classes: tuple[str, ...] | None = None,
    labels: type[Labels] = ClassLabels,
    fields_as_text: tuple[str, ...] = (),
) -> Prepared:
    """Return a corpus in ids: from the cache, or made now.

    Args:
        corpus: Where the rows come from.
        tokenizer: How a tokenizer is made from the training texts, or a finished one.
        text_fields: The fields to encode; a trained tokenizer's vocabulary is shared by all of them.
        label_field: The field of the label, if any.
        max_length: Most tokens of a text, without special tokens; with `truncate_longer` of both texts of a pair.
        overflow: What happens to longer training texts: `drop` the row, `truncate`, `truncate_longer` of a pair, or cut
            into examples (`window`). In val and test, where a score must be over every row, `drop` truncates.
        cache: Folder of prepared data.
        classes: Names of the classes, in the order of their ids; None: the training split's labels, sorted.
        labels: What is read of them.
        fields_as_text: Fields that are kept as they were read besides, and not encoded.

    Raises:
        ConfigurationError: If the settings do not fit together.
        DataError: If the corpus cannot be read, a split has no usable row, or a label is unknown.
        StorageError: If the cache cannot be written.
    """
    cache = Path(cache).expanduser()
    encoding = Encoding(tuple(text_fields), label_field, max_length, overflow)
    content = corpus.fingerprint()
    with _parallel_tokenizers():
        finished = tokenizer if isinstance(tokenizer, Tokenizer) else _make(tokenizer, corpus, content, encoding, cache)
        kind = () if labels is ClassLabels else (labels.__name__,)
        key = _digest(FORMAT, content, finished.fingerprint, asdict(encoding), classes, *fields_as_text, *kind)
        kept = (*text_fields, *fields_as_text)
        reader = labels(label_field, classes) if label_field else None
        folder = cached(cache / "prepared", key, lambda new: _write(new, corpus, finished, encoding, reader, kept))
    summary = json.loads((folder / "summary.json").read_bytes())
    splits = {split: _open_split(folder / split, finished, encoding, kept) for split in summary["dropped"]}
    return Prepared(finished, splits, tuple(summary["classes"]), key, summary["dropped"])


def _make(recipe: TokenizerRecipe, corpus: Corpus, content: str, encoding: Encoding, cache: Path) -> Tokenizer:
    """Return the tokenizer of a recipe, trained on the training texts the first time."""
    key = _digest(FORMAT, content, recipe.key, encoding.text_fields)
    texts = _TrainingTexts(corpus, encoding.text_fields)
    return Tokenizer.load(cached(cache / "tokenizers", key, lambda folder: recipe.build(texts).save(folder)))


@dataclass(frozen=True)
class _TrainingTexts:
    """The texts of a corpus' training split, read anew each time that they are asked for."""

    corpus: Corpus
    fields: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        for row in followed(self.corpus.rows("train"), "for the tokenizer"):
            for field in self.fields:
                yield row.fields[field]

    def of(self, field: str) -> Iterator[str]:
        if field not in self.fields:
            raise ConfigurationError(
                f"a vocabulary of its own for {field}: the data has only {', '.join(self.fields)}; choose another tokenizer"
            )
        for row in self.corpus.rows("train"):
            yield row.fields[field]


def _write(
    folder: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    encoding: Encoding,
    labels: Labels | None,
    kept: tuple[str, ...],
) -> None:
    """Encode all splits into an empty folder."""
    dropped: dict[str, Mapping[str, int]] = {}
    for split in corpus.splits():
        before = Counter(corpus.dropped)
        examples, counts = encode_split(
            followed(corpus.rows(split), split),
            folder / split,
            tokenizer,
            encoding,
            labels,
            kept,
            training=split == "train",
        )
        counts += Counter(corpus.dropped) - before
        if examples == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"
            raise DataError(f"the {split} split of {type(corpus).__name__} has no usable row (left out: {reasons})")
        _tell(split, examples, counts, corpus.dropped)
        dropped[split] = counts
    summary = {"classes": labels.classes if labels else (), "dropped": dropped}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


def followed(rows: Iterable[Row], what: str, every: float = 10.0) -> Iterator[Row]:
    """Yield rows, and log how many they are so far: a large corpus takes minutes.

    Args:
        rows: Of a corpus.
        what: They are read for.
        every: Seconds between two lines of the log.
    """
    told = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        if time.monotonic() - told >= every:
            logger.info("reading %s: %s rows", what, f"{number:,}")
            told = time.monotonic()


def _tell(split: str, examples: int, counts: Counter[str], dropped: Counter[str]) -> None:
    """Log what was made, and where the first row of each reason is."""
    first = dropped.first if isinstance(dropped, Dropped) else {}
    said = (
        f"{count} {reason}" + (f" ({first[reason]})" if reason in first else "") for reason, count in counts.items()
    )
    logger.info("%s: %d examples; left out or cut: %s", split, examples, ", ".join(said) or "none")


def _open_split(folder: Path, tokenizer: Tokenizer, encoding: Encoding, kept: tuple[str, ...]) -> Split:
    windows = encoding.overflow == "window"
    rows = np.load(folder / "rows.npy", mmap_mode="r") if windows else None
    return Split(
        tokens={
            field: Ragged(folder / f"{field}.tokens", token_type(tokenizer.of(field).vocabulary))
            for field in encoding.text_fields
        },
        texts=TextColumns({field: TextColumn(Ragged(folder / f"{field}.text", np.uint8), rows) for field in kept}),
        labels=np.load(folder / "labels.npy") if encoding.label_field else None,
    )


def _digest(*parts: Any) -> str:
    """Return the sha256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _parallel_tokenizers() -> Iterator[None]:
    """Let the tokenizers library use threads here but not later: a process that forks then would hang in them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = before or "true"
    try:
        yield
    finally:
        os.environ[name] = before or "false"
