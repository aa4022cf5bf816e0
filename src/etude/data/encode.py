"""Encoding of a split: its rows become examples on disk, as ids, texts and labels."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.cache import RaggedWriter
from etude.data.labels import Labels
from etude.data.readers.sources import Row
from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer
from etude.tokenization.truncation import lengths_within

OVERFLOWS = ("drop", "truncate", "truncate_longer", "window")
BATCH_ROWS = 1000
BATCH_CHARACTERS = 2_000_000


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

    def examples(self, ids: dict[str, list[int]], training: bool) -> tuple[list[dict[str, list[int]]], str | None]:
        """Return the examples of one row, and `truncated` or the reason why it was dropped; None if it is whole."""
        size = self.max_length
        if training and not all(ids.values()):
            return [], "no tokens"
        if self.overflow == "window":
            ((field, tokens),) = ids.items()
            windows = [{field: tokens[start : start + size]} for start in range(0, len(tokens), size)]
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


def token_type(vocabulary: int) -> str:
    """Return the smallest type in which ids of a vocabulary are stored."""
    return "uint16" if vocabulary <= 1 << 16 else "int32"


def encode_split(
    rows: Iterable[Row],
    folder: Path,
    tokenizer: Tokenizer,
    encoding: Encoding,
    labels: Labels | None,
    stored_fields: tuple[str, ...],
    training: bool,
) -> tuple[int, Counter[str]]:
    """Write a split's examples into a new folder; only offsets and labels are held in memory.

    Args:
        rows: The rows as read.
        folder: The folder, which must not exist yet.
        tokenizer: Tokenizer of the ids.
        encoding: How rows become examples.
        labels: Reader of the labels; None if there are none.
        stored_fields: The fields whose texts are stored as they were read.
        training: Whether rows may be dropped for their length.

    Returns:
        The number of examples, and the number of rows that were truncated or dropped, by reason.
    """
    folder.mkdir()
    counts: Counter[str] = Counter()
    origins, values = array("q"), list[Any]()
    with ExitStack() as stack:
        tokens = {
            field: stack.enter_context(
                RaggedWriter(folder / f"{field}.tokens", token_type(tokenizer.of(field).vocabulary))
            )
            for field in encoding.text_fields
        }
        texts = {
            field: stack.enter_context(RaggedWriter(folder / f"{field}.text", np.uint8)) for field in stored_fields
        }
        for row, ids in _encoded(rows, tokenizer, encoding.text_fields):
            examples, change = encoding.examples(ids, training)
            if change:
                counts[change] += 1
            if not examples:
                continue
            value = labels.value(row) if labels else None
            row_number = len(texts[stored_fields[0]])
            for field, text_writer in texts.items():
                text_writer.append(row.fields[field].encode())
            for example in examples:
                origins.append(row_number)
                if labels:
                    values.append(value)
                for field, token_writer in tokens.items():
                    token_writer.append(example[field])
    if encoding.overflow == "window":
        np.save(folder / "rows.npy", np.array(origins, np.int64))
    if labels:
        np.save(folder / "labels.npy", labels.close(values))
    return len(origins), counts


def _encoded(
    rows: Iterable[Row], tokenizer: Tokenizer, fields: tuple[str, ...]
) -> Iterator[tuple[Row, dict[str, list[int]]]]:
    """Yield each row with the ids of its fields, encoding batches of rows on all cores."""
    for batch in _batches(rows, fields):
        columns = [tokenizer.of(field).encode([row.fields[field] for row in batch]) for field in fields]
        for row, ids in zip(batch, zip(*columns, strict=True), strict=True):
            yield row, dict(zip(fields, ids, strict=True))


def _batches(rows: Iterable[Row], fields: tuple[str, ...]) -> Iterator[list[Row]]:
    """Yield lists of rows, limited in number and in characters."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(row.fields[field]) for field in fields)
        if len(batch) == BATCH_ROWS or size > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
