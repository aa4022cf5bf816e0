"""Encoding of a split: its rows become examples on disk, as ids, texts and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, cast

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from etude.data.readers.labels import Labels
from etude.data.readers.sources import Row
from etude.errors import ConfigurationError
from etude.growing import AGAIN, HEADER, GrowingArray, Grown, Marks, RaggedWriter
from etude.tokenization.base import Tokenizer
from etude.tokenization.truncation import lengths_within
from etude.tokenization.word_memory import LETTERS, EncodedTexts, encoder
from etude.untrusted import BrokenFileError

OVERFLOWS = ("drop", "truncate", "truncate_longer", "window")
BATCH_ROWS = 1000
BATCH_CHARACTERS = 2_000_000

MARKED_CHARACTERS = 16_000_000
"""Characters after which what is written is marked: a killed process loses the encoding of no more, two seconds of work."""


Ids = Mapping[str, Sequence[int]]
"""The ids of one row or example by field: lists, or views into the bytes that are stored."""


@dataclass(frozen=True)
class Encoding:
    """How rows become examples.

    Attributes:
        text_fields: The fields that are encoded.
        label_field: The field of the label; None if there is none.
        max_length: Most tokens of a field, without special tokens; with `truncate_longer`, of both fields together.
        overflow: Treatment of longer texts: `drop` the row, `truncate` the text, or cut it into `window`s. Of a pair,
            `truncate_longer` shortens the longer text, and both once they are equally long (see `lengths_within`). Only
            training rows are dropped for their length: a score is over every row, so others are truncated.

    Raises:
        ConfigurationError: If the settings do not fit together.
    """

    text_fields: tuple[str, ...]
    label_field: str | None
    max_length: int
    overflow: str

    def __post_init__(self) -> None:
        if self.overflow not in OVERFLOWS:
            raise ConfigurationError(f"overflow={self.overflow!r} is not one of {', '.join(OVERFLOWS)}")
        if self.overflow == "window" and len(self.text_fields) != 1:
            raise ConfigurationError(f"overflow='window' is for one text field, not for {', '.join(self.text_fields)}")
        if self.overflow == "truncate_longer" and len(self.text_fields) != 2:
            raise ConfigurationError(f"overflow='truncate_longer' is for pairs, not for {', '.join(self.text_fields)}")
        if self.max_length < (2 if self.overflow == "truncate_longer" else 1):
            raise ConfigurationError(f"data.max_length leaves {self.max_length} tokens of text; give a larger one")

    def are_whole(self, lengths: Sequence[npt.NDArray[np.int64]], training: bool) -> bool:
        """Whether each of some rows is one example, unchanged, as `examples` would find.

        Args:
            lengths: For each field, [rows] the number of tokens.
            training: Whether rows may be dropped.
        """
        if (training or self.overflow == "window") and any(not field.all() for field in lengths):
            return False
        longest = sum(lengths) if self.overflow == "truncate_longer" else np.maximum.reduce(list(lengths))
        return bool(np.max(longest) <= self.max_length)

    def examples(self, ids: Ids, training: bool) -> tuple[list[Ids], str | None]:
        """Return the examples of one row, and `truncated` or the reason why it was dropped; None if it is whole."""
        size = self.max_length
        if training and not all(ids.values()):
            return [], "no tokens"
        if self.overflow == "window":
            ((field, tokens),) = ids.items()
            windows: list[Ids] = [{field: tokens[start : start + size]} for start in range(0, len(tokens), size)]
            return windows, None if windows else "no tokens"
        sizes = self._sizes({field: len(tokens) for field, tokens in ids.items()})
        if all(len(tokens) <= sizes[field] for field, tokens in ids.items()):
            return [ids], None
        if training and self.overflow == "drop":
            return [], f"longer than {size} tokens"
        return [{field: tokens[: sizes[field]] for field, tokens in ids.items()}], "truncated"

    def _sizes(self, lengths: dict[str, int]) -> dict[str, int]:
        """Return the most tokens of each field of a row."""
        if self.overflow != "truncate_longer":
            return dict.fromkeys(lengths, self.max_length)
        first, second = lengths.values()
        return dict(zip(lengths, lengths_within(first, second, self.max_length), strict=True))


class SplitProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a split is encoded and on the disk.

    Attributes:
        rows: Rows that were read.
        counts: Rows of these that were truncated or dropped, by reason.
        marks: What is on the disk, by the name of its file.
    """

    rows: Annotated[int, Meta(ge=0)] = 0
    counts: dict[str, Annotated[int, Meta(ge=0)]] = {}
    marks: dict[str, Grown] = {}


@dataclass(frozen=True)
class SplitPlace:
    """Where a split is encoded to.

    Attributes:
        folder: Folder of its files.
        origins: File with the number of examples of each row, which only a process that goes on needs.
        done: What an earlier process has done.
        keep: Notes what is done; called when it is on the disk.
    """

    folder: Path
    origins: Path
    done: SplitProgress
    keep: Callable[[SplitProgress], None]


class EncodedBatch(NamedTuple):
    """The examples of a batch of rows.

    Attributes:
        tokens: Field -> bytes of the ids of each example.
        numbers: [rows] number of examples of each row.
        changes: Why rows were changed, for each of them.
    """

    tokens: Mapping[str, Sequence[bytes]]
    numbers: npt.NDArray[np.int32]
    changes: Sequence[str]


class RowEncoder(Protocol):
    """Makes examples of rows."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of rows that are encoded."""
        ...

    @property
    def types(self) -> Mapping[str, str]:
        """Type of what is stored of each field of an example."""
        ...

    @property
    def divides(self) -> bool:
        """Whether a row may have several examples."""
        ...

    def encode(self, rows: Sequence[Row], training: bool) -> EncodedBatch:
        """Return the examples of some rows.

        Args:
            rows: The rows.
            training: Whether rows may be dropped for their length.
        """
        ...


class FieldEncoder:
    """Encodes texts, field by field.

    Args:
        tokenizer: Tokenizer of the ids.
        encoding: How rows become examples.
    """

    def __init__(self, tokenizer: Tokenizer, encoding: Encoding) -> None:
        self.fields = encoding.text_fields
        self.types: Mapping[str, str] = {field: token_type(tokenizer.of(field).vocabulary) for field in self.fields}
        self.divides = encoding.overflow == "window"
        self._tokenizer, self._encoding = tokenizer, encoding

    @cached_property
    def _encoders(self) -> dict[str, EncodedTexts]:
        return {field: encoder(self._tokenizer.of(field), kind) for field, kind in self.types.items()}

    def encode(self, rows: Sequence[Row], training: bool) -> EncodedBatch:
        """Return the examples of some rows; the arguments are those of `RowEncoder.encode`."""
        columns = {field: encode([row.fields[field] for row in rows]) for field, encode in self._encoders.items()}
        return _examples(columns, self._encoding, self.types, training)


class _SplitFiles:
    """The growing files of a split.

    Args:
        place: Where they are.
        token_types: Type of the ids of each field.
        stored_fields: The fields whose texts are stored.
        windows: Whether a row may have several examples.
    """

    def __init__(
        self, place: SplitPlace, token_types: Mapping[str, str], stored_fields: Sequence[str], windows: bool
    ) -> None:
        folder, marks = place.folder, place.done.marks
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self.tokens = {
                field: stack.enter_context(RaggedWriter(folder / f"{field}.tokens", kind, marks))
                for field, kind in token_types.items()
            }
            self.texts = {
                field: stack.enter_context(RaggedWriter(folder / f"{field}.text", np.uint8, marks))
                for field in stored_fields
            }
            self.rows = stack.enter_context(GrowingArray(folder / "rows.npy", np.int64, marks)) if windows else None
            self.origins = stack.enter_context(GrowingArray(place.origins, np.int32, marks))
            self._stack = stack.pop_all()

    def add(self, rows: Sequence[Row], encoded: EncodedBatch) -> None:
        """Write some rows and their examples; of rows without one, nothing is written."""
        numbers = encoded.numbers
        kept = rows if numbers.all() else [row for row, number in zip(rows, numbers, strict=True) if number]
        if self.rows is not None:
            texts = next(iter(self.texts.values()))
            self.rows.extend(np.repeat(np.arange(len(texts), len(texts) + len(kept)), numbers[numbers > 0]))
        for field, writer in self.texts.items():
            writer.extend([row.fields[field].encode() for row in kept])
        for field, writer in self.tokens.items():
            writer.extend(encoded.tokens[field])
        self.origins.extend(numbers)

    def mark(self) -> Marks:
        """Wait until everything is on the disk, and return what names it."""
        files: list[RaggedWriter | GrowingArray] = [*self.tokens.values(), *self.texts.values(), self.origins]
        files += [] if self.rows is None else [self.rows]
        return {name: mark for file in files for name, mark in file.mark().items()}

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(next(iter(self.tokens.values())))

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


def token_type(vocabulary: int) -> str:
    """Return the smallest type in which ids of a vocabulary are stored."""
    return "uint16" if vocabulary <= 1 << 16 else "int32"


def encode_split(
    rows: Iterable[Row],
    place: SplitPlace,
    encoder: RowEncoder,
    labels: Labels | None,
    stored_fields: tuple[str, ...],
    training: bool,
) -> tuple[int, Counter[str]]:
    """Write a split's examples into a folder, or go on with them; only labels are held in memory.

    Rows that an earlier process has encoded are read again, for their labels and for what is counted, but not encoded.

    Args:
        rows: The rows as read.
        place: Where they are written, and what of them is there.
        encoder: Makes examples of rows.
        labels: Reader of the labels; None if there are none.
        stored_fields: The fields whose texts are stored as they were read.
        training: Whether rows may be dropped for their length.

    Returns:
        The number of examples, and the number of rows that were truncated or dropped, by reason.

    Raises:
        BrokenFileError: If what is there is not what an earlier process marked.
    """
    files = _SplitFiles(place, encoder.types, stored_fields, encoder.divides)
    with closing(files):
        counts, remaining = Counter(place.done.counts), iter(rows)
        values = _labels_again(remaining, place, labels)
        read, unmarked = place.done.rows, 0
        for batch, characters in batches(remaining, encoder.fields):
            encoded = encoder.encode(batch, training)
            counts.update(encoded.changes)
            if labels:
                for row, number in zip(batch, encoded.numbers, strict=True):
                    values.extend(_labels(row, number, labels))
            files.add(batch, encoded)
            read += len(batch)
            unmarked += characters
            if unmarked >= MARKED_CHARACTERS:
                place.keep(SplitProgress(read, dict(counts), dict(files.mark())))
                unmarked = 0
        place.keep(SplitProgress(read, dict(counts), dict(files.mark())))
        total = len(files)
    if labels:
        np.save(place.folder / "labels.npy", labels.close(values))
    return total, counts


def _labels_again(rows: Iterator[Row], place: SplitPlace, labels: Labels | None) -> list[Any]:
    """Read the rows again that are encoded, and return the labels of their examples."""
    done, values, read = place.done.rows, list[Any](), 0
    # Not by np.load: the header is written at the end, to which an earlier process may not have come.
    numbers = np.memmap(place.origins, np.int32, "r", HEADER) if done else ()
    for row, number in zip(islice(rows, done), numbers, strict=False):
        read += 1
        if labels:
            values.extend(_labels(row, number, labels))
    if read != done:
        raise BrokenFileError(place.folder, f"has {done:,} rows of {read:,}", AGAIN)
    return values


def _labels(row: Row, number: int, labels: Labels) -> list[Any]:
    """Return the label of a row for each of its examples; that of a row without one is not read."""
    return [labels.value(row)] * int(number) if number else []


def _examples(
    columns: Mapping[str, Sequence[bytes]], encoding: Encoding, types: Mapping[str, str], training: bool
) -> EncodedBatch:
    """Return the examples of a batch of rows, given the bytes of each field's ids."""
    sizes = {field: np.dtype(kind).itemsize for field, kind in types.items()}
    lengths = [np.fromiter(map(len, column), np.int64) // sizes[field] for field, column in columns.items()]
    if encoding.are_whole(lengths, training):
        return EncodedBatch(columns, np.ones(len(lengths[0]), np.int32), [])
    tokens, numbers, changes = {field: list[bytes]() for field in columns}, list[int](), list[str]()
    for contents in zip(*columns.values(), strict=True):
        views = {
            field: memoryview(ids).cast(LETTERS[types[field]]) for field, ids in zip(columns, contents, strict=True)
        }
        found, change = encoding.examples(views, training)
        numbers.append(len(found))
        if change:
            changes.append(change)
        for example in found:
            for field, ids in example.items():
                tokens[field].append(cast("memoryview[int]", ids).tobytes())  # parts of views are views
    return EncodedBatch(tokens, np.array(numbers, np.int32), changes)


def batches(rows: Iterable[Row], fields: tuple[str, ...]) -> Iterator[tuple[list[Row], int]]:
    """Yield lists of rows, limited in number and in characters, with their characters.

    Args:
        rows: The rows.
        fields: The fields whose characters count.
    """
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        for field in fields:
            size += len(row.fields[field])
        if len(batch) == BATCH_ROWS or size > BATCH_CHARACTERS:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size
