"""Preparation of a corpus: its tokenizer and its encoded examples, made once, streaming, and cached.

Keys of the cache are hashes of the corpus' content, the tokenizer and all settings, so that nothing stale is ever read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from etude.atomic import write_json
from etude.data.cache import ADVICE, Ragged, TextColumn, TextColumns, cached, continued
from etude.data.encode import Encoding, FieldEncoder, RowEncoder, SplitPlace, SplitProgress, encode_split
from etude.data.readers.labels import ClassLabels, Labels
from etude.data.readers.sources import Dropped, Row
from etude.errors import ConfigurationError, DataError
from etude.growing import AGAIN
from etude.schema_errors import shown
from etude.tokenization.base import Tokenizer, TokenizerRecipe, TrainingTexts
from etude.untrusted import read_json

FORMAT = 1
"""Version of the stored files; folders of another version are not read."""

PROGRESS = "progress.json"
"""File of data that is being prepared: what of it is on the disk."""

logger = logging.getLogger(__name__)


class Corpus(Protocol):
    """A source of rows."""

    @property
    def dropped(self) -> Counter[str]:
        """Number of rows left out so far, by reason, over all splits that were read."""

    def fingerprint(self) -> str:
        """Return a hash of the content and of the settings that select from it, but not of its location."""

    def splits(self) -> tuple[str, ...]:
        """Return the splits that exist, in the order train, val, test."""

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split, streaming."""


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
        tokens: Field -> ids of each example, without special tokens.
        texts: Field -> text of the row of each example, as read.
        labels: [N] class ids or numbers, or [N, C] zeros and ones; None if there are no labels.
    """

    tokens: dict[str, Ragged]
    texts: TextColumns
    labels: npt.NDArray[Any] | None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(next(iter(self.tokens.values())))

    def only(self, rows: npt.NDArray[np.int64]) -> Split:
        """Return some of the examples, in the given order."""
        return Split(
            {field: tokens.only(rows) for field, tokens in self.tokens.items()},
            TextColumns({field: column.only(rows) for field, column in self.texts.items()}),
            None if self.labels is None else self.labels[rows],
        )


class _Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `summary.json` says of prepared data: the classes, and how many rows of each split were dropped."""

    classes: list[str]
    dropped: dict[str, dict[str, Annotated[int, Meta(ge=0)]]]

    def __post_init__(self) -> None:
        """Refuse splits that are none: their names are those of folders."""
        for split in self.dropped:
            if split not in ("train", "val", "test"):
                raise ValueError(f"dropped has '{shown(split)}', which is not a split")


@dataclass(frozen=True)
class Prepared:
    """An encoded corpus.

    Attributes:
        tokenizer: Tokenizer of the ids.
        splits: The examples by split.
        classes: Names of the classes in the order of their ids.
        fingerprint: Hash of everything that determines the examples.
        dropped: Split -> reason -> number of rows that were dropped or, as `truncated`, shortened.
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
    """Return an encoded corpus, from the cache if it is there.

    Args:
        corpus: Source of the rows.
        tokenizer: Recipe of a tokenizer, trained on the training texts, or a finished one.
        text_fields: The fields to encode; they share the vocabulary of a trained tokenizer.
        label_field: The field of the label, if any.
        max_length: Most tokens of a text, without special tokens; with `truncate_longer`, of both texts of a pair.
        overflow: Treatment of longer texts, as in `Encoding`.
        cache: Folder of prepared data.
        classes: Names of the classes, in the order of their ids; None: the training split's labels, sorted.
        labels: Reader of the labels.
        fields_as_text: Fields that are stored as they were read, and not encoded.

    Raises:
        ConfigurationError: If the settings do not fit together.
        DataError: If the corpus cannot be read, a split has no usable row, or a label is unknown.
        StorageError: If the cache cannot be written.
    """
    encoding = Encoding(tuple(text_fields), label_field, max_length, overflow)
    texts = CorpusTexts(corpus, encoding.text_fields)
    finished = finished_tokenizer(tokenizer, texts, (corpus.fingerprint(), encoding.text_fields), cache)
    kind = () if labels is ClassLabels else (labels.__name__,)
    return encoded(
        corpus,
        finished,
        FieldEncoder(finished, encoding),
        key=(finished.fingerprint, asdict(encoding), classes, *fields_as_text, *kind),
        stored=(*text_fields, *fields_as_text),
        labels=(lambda: labels(label_field, classes)) if label_field else None,
        cache=cache,
    )


def finished_tokenizer(
    tokenizer: TokenizerRecipe | Tokenizer, texts: TrainingTexts, read: tuple[Any, ...], cache: Path
) -> Tokenizer:
    """Return a finished tokenizer as it is, and that of a recipe from the cache if it is there.

    Args:
        tokenizer: Recipe of a tokenizer, or a finished one.
        texts: The texts that it is trained on, if it is trained.
        read: What determines these texts, as plain values: first a hash of the content of their corpus.
        cache: Folder of prepared data.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    content, *rest = read
    key = _digest(FORMAT, content, tokenizer.key, *rest)
    root = Path(cache).expanduser() / "tokenizers"
    with parallel_tokenizers():
        return Tokenizer.load(cached(root, key, lambda folder: tokenizer.build(texts).save(folder)))


def encoded(
    corpus: Corpus,
    tokenizer: Tokenizer,
    encoder: RowEncoder,
    *,
    key: tuple[Any, ...],
    stored: tuple[str, ...],
    labels: Callable[[], Labels] | None = None,
    cache: Path,
) -> Prepared:
    """Return a corpus that an encoder has encoded, from the cache if it is there.

    Args:
        corpus: Source of the rows.
        tokenizer: Tokenizer of the ids.
        encoder: Makes examples of rows.
        key: What determines the examples besides the content of the corpus, as plain values.
        stored: Fields whose texts are stored as they were read.
        labels: Makes the reader of the labels; None: there are none.
        cache: Folder of prepared data.

    Raises:
        DataError: If the corpus cannot be read, a split has no usable row, or a label is unknown.
        StorageError: If the cache cannot be written.
    """
    fingerprint = _digest(FORMAT, corpus.fingerprint(), *key)

    def build(folder: Path, beside: Path) -> None:
        _write(folder, beside, corpus, encoder, labels() if labels else None, stored)

    with parallel_tokenizers():
        folder = continued(Path(cache).expanduser() / "prepared", fingerprint, build)
    summary = read_json(folder / "summary.json", _Summary, ADVICE)
    splits = {split: _open_split(folder / split, encoder, stored, labels is not None) for split in summary.dropped}
    return Prepared(tokenizer, splits, tuple(summary.classes), fingerprint, summary.dropped)


@dataclass(frozen=True)
class CorpusTexts:
    """The texts of a corpus' training split, read anew for each iteration."""

    corpus: Corpus
    fields: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        for row in followed(self.corpus.rows("train"), "for the tokenizer"):
            for field in self.fields:
                yield row.fields[field]

    def of(self, field: str) -> Iterator[str]:
        """Yield the texts of one field.

        Raises:
            ConfigurationError: If there is no such field.
        """
        if field not in self.fields:
            raise ConfigurationError(
                f"a vocabulary of its own for {field}: the data has only {', '.join(self.fields)}; choose another tokenizer"
            )
        for row in self.corpus.rows("train"):
            yield row.fields[field]


def _write(
    folder: Path,
    beside: Path,
    corpus: Corpus,
    encoder: RowEncoder,
    labels: Labels | None,
    stored_fields: tuple[str, ...],
) -> None:
    """Encode all splits into a folder, or go on where an earlier process was killed."""
    progress = _read_progress(beside)
    dropped: dict[str, Mapping[str, int]] = {}
    for split in corpus.splits():
        before = Counter(corpus.dropped)
        place = SplitPlace(
            folder / split,
            beside / f"{split}.origins.npy",
            progress.get(split, SplitProgress()),
            functools.partial(_keep_progress, beside, progress, split),
        )
        if place.done.rows:
            logger.info("%s: %s rows are encoded already; reading on", split, f"{place.done.rows:,}")
        rows = followed(corpus.rows(split), split)
        examples, counts = encode_split(rows, place, encoder, labels, stored_fields, split == "train")
        counts += Counter(corpus.dropped) - before
        if examples == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"
            raise DataError(f"the {split} split of {type(corpus).__name__} has no usable row (left out: {reasons})")
        _log_split(split, examples, counts, corpus.dropped)
        dropped[split] = counts
    summary = {"classes": labels.classes if labels else (), "dropped": dropped}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


def _read_progress(folder: Path) -> dict[str, SplitProgress]:
    """Return how much of each split an earlier process has encoded."""
    path = folder / PROGRESS
    return dict(read_json(path, dict[str, SplitProgress], AGAIN)) if path.exists() else {}


def _keep_progress(folder: Path, progress: dict[str, SplitProgress], split: str, done: SplitProgress) -> None:
    """Note how much of a split is encoded."""
    progress[split] = done
    write_json(folder / PROGRESS, msgspec.to_builtins(progress))


def followed(rows: Iterable[Row], what: str, every: float = 10.0) -> Iterator[Row]:
    """Yield rows, and log their number from time to time: a large corpus takes minutes.

    Args:
        rows: Rows of a corpus.
        what: Split or purpose that they are read for.
        every: Seconds between two lines of the log.
    """
    logged = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        if time.monotonic() - logged >= every:
            logger.info("reading %s: %s rows", what, f"{number:,}")
            logged = time.monotonic()


def _log_split(split: str, examples: int, counts: Counter[str], dropped: Counter[str]) -> None:
    """Log the number of examples, and the number and first origin of changed rows, by reason."""
    first = dropped.first if isinstance(dropped, Dropped) else {}
    reasons = (
        f"{count} {reason}" + (f" ({first[reason]})" if reason in first else "") for reason, count in counts.items()
    )
    logger.info("%s: %d examples; left out or cut: %s", split, examples, ", ".join(reasons) or "none")


def _open_split(folder: Path, encoder: RowEncoder, stored_fields: tuple[str, ...], labelled: bool) -> Split:
    rows = np.load(folder / "rows.npy", mmap_mode="r") if encoder.divides else None
    return Split(
        tokens={field: Ragged(folder / f"{field}.tokens", kind) for field, kind in encoder.types.items()},
        texts=TextColumns(
            {field: TextColumn(Ragged(folder / f"{field}.text", np.uint8), rows) for field in stored_fields}
        ),
        labels=np.load(folder / "labels.npy") if labelled else None,
    )


def _digest(*parts: Any) -> str:
    """Return the sha256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def parallel_tokenizers() -> Iterator[None]:
    """Let the tokenizers library use threads in this block only: a process that is forked later would hang in them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = before or "true"
    try:
        yield
    finally:
        os.environ[name] = before or "false"
