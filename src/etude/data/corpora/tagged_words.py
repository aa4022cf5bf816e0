"""Files of sentences whose words have a tag each: columns, as in CoNLL's shared tasks and CoNLL-U, and JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped, Row, is_text, read_lines
from etude.errors import ConfigurationError, DataError
from etude.metrics.tagging import SCHEMES, SchemeName
from etude.tokenization.word_tokens import BETWEEN

DOCUMENT_MARK = "-DOCSTART-"
"""Word that stands alone between the documents of CoNLL's files (Tjong Kim Sang and De Meulder 2003)."""

SPACES, NO_BREAK_SPACE = re.compile(r"[ \t\n\r\f\v]+"), "\u00a0"
"""What spaces inside a word are, and what they become."""


@dataclass(frozen=True)
class _Sentence:
    """A sentence as read.

    Attributes:
        words: Its words.
        tags: Their tags.
        lines: The line of each word in its file.
    """

    words: list[str]
    tags: list[str]
    lines: Sequence[int]


class TaggedWords(SplitFiles):
    """Sentences of tagged words, by the ending of the file's name: `.jsonl` for JSON lines, all others columns.

    In columns a word and its tag stand on a line, with tabs between them or, if there are none, other white space; an empty
    line ends a sentence. In JSON lines a sentence is an object with a list of words and a list of tags.

    Args:
        train: Training file.
        val: Validation file; None: there is none.
        test: Test file; None: there is none.
        root: Folder of the files; None: not known yet.
        val_share: As in `SplitFiles`.
        test_share: As in `SplitFiles`.
        word_column: Column of the words, from 0; from the last backwards if negative.
        tag_column: Column of the tags, likewise.
        number_column: Column of the words' numbers, as in CoNLL-U: words whose number is no whole number (`1-2`, `1.1`), which
            repeat others, are left out; None: there is none.
        comment: Beginning of lines that are comments, `#` in CoNLL-U; None: there are none.
        words_key: Key of the words in JSON lines.
        tags_key: Key of the tags in JSON lines.
        scheme: Scheme that the tags must follow, if they write spans.
        repair: Whether tags that do not follow the scheme are rewritten as conlleval reads them, and counted; else they are
            refused.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str | None = ".",
        val_share: float | None = None,
        test_share: float | None = None,
        word_column: int = 0,
        tag_column: int = -1,
        number_column: int | None = None,
        comment: str | None = None,
        words_key: str = "words",
        tags_key: str = "tags",
        scheme: SchemeName | None = None,
        repair: bool = False,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, val_share, test_share)
        self.columns = (word_column, tag_column)
        self.number_column = number_column
        self.comment = comment
        self.keys = (words_key, tags_key)
        self.scheme = None if scheme is None else SCHEMES[scheme]
        self.repair = repair

    def fingerprint(self) -> str:
        """Return a hash of all files' content and of the settings."""
        scheme = None if self.scheme is None else self.scheme.name
        settings = (self.columns, self.number_column, self.comment, self.keys, scheme, self.repair)
        return digest("TaggedWords 1", *settings, *self.settings)

    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield rows with the fields `text` and `tags`.

        Raises:
            DataError: If the file is missing or broken, a word has no tag, or tags do not follow the scheme.
        """
        path = self.path(split)
        lines = path.name.removesuffix(".gz").endswith((".jsonl", ".json"))
        for sentence in self._records(path) if lines else self._columns(path):
            origin = f"{path.name}:{sentence.lines[0]}"
            if sentence.words == [DOCUMENT_MARK]:
                continue
            if not all(map(is_text, (*sentence.words, *sentence.tags))):
                dropped.drop("not UTF-8 text", origin)
                continue
            words = [SPACES.sub(NO_BREAK_SPACE, word) for word in sentence.words]
            if words != sentence.words:
                dropped.drop("with words that have spaces, now no-break spaces", origin)
            tags = self._checked(sentence, path, dropped)
            yield Row({"text": BETWEEN.join(words), "tags": json.dumps(tags, ensure_ascii=False)}, origin)

    def _checked(self, sentence: _Sentence, path: Path, dropped: Dropped) -> list[str]:
        """Return the tags, which follow the scheme."""
        tags, scheme = sentence.tags, self.scheme
        if scheme is None:
            return tags
        try:
            scheme.check(tags)
        except ConfigurationError as error:
            raise DataError(f"{path.name}:{sentence.lines[0]}: {error}") from None
        place = scheme.broken(tags)
        if place is None:
            return tags
        origin = f"{path.name}:{sentence.lines[place]}"
        if not self.repair:
            before = f"after {tags[place - 1]!r}" if place else "at the start of a sentence"
            raise DataError(
                f"{origin} has the tag {tags[place]!r} {before}, where {scheme.name} has {scheme.repaired(tags)[place]!r}; mend "
                "it, or write data.repair=true to rewrite and count such tags"
            )
        dropped.drop(f"with tags that {scheme.name} does not have there, rewritten", origin)
        return scheme.repaired(tags)

    def _columns(self, path: Path) -> Iterator[_Sentence]:
        """Yield the sentences of a file of columns."""
        words, tags, lines = list[str](), list[str](), list[int]()
        for number, line in enumerate(read_lines(path), 1):
            text = line.decode("utf-8", "surrogateescape")
            if self.comment is not None and text.startswith(self.comment):
                continue
            if text.strip():
                pair = self._pair(text, f"{path.name}:{number}")
                if pair is not None:
                    words.append(pair[0])
                    tags.append(pair[1])
                    lines.append(number)
            elif words:
                yield _Sentence(words, tags, lines)
                words, tags, lines = [], [], []
        if words:
            yield _Sentence(words, tags, lines)

    def _pair(self, line: str, origin: str) -> tuple[str, str] | None:
        """Return the word and the tag of a line; None if its word repeats others."""
        parts = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if self.number_column is not None and not _column(parts, self.number_column, origin, "number").isdecimal():
            return None
        word, tag = (
            _column(parts, place, origin, what) for place, what in zip(self.columns, ("word", "tag"), strict=True)
        )
        if len(parts) == 1:
            raise DataError(f"{origin} has one column, {parts[0][:60]!r}, and no tag beside it")
        return word, tag

    def _records(self, path: Path) -> Iterator[_Sentence]:
        """Yield the sentences of a file of JSON lines."""
        for number, line in enumerate(read_lines(path), 1):
            origin = f"{path.name}:{number}"
            try:
                record = json.loads(line.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{origin} is not JSON: {' '.join(str(error).split())}; mend that line") from None
            words, tags = (_texts(record, key, origin) for key in self.keys)
            if len(words) != len(tags):
                raise DataError(f"{origin} has {len(words)} words and {len(tags)} tags; write a tag for each word")
            if words:
                yield _Sentence(words, tags, [number] * len(words))


def _column(parts: Sequence[str], place: int, origin: str, what: str) -> str:
    if not -len(parts) <= place < len(parts) or not parts[place]:
        raise DataError(
            f"{origin} has no {what} in column {place}, but {len(parts)}: {' | '.join(parts)[:60]!r}; write "
            f"data.{what}_column=…, from 0"
        )
    return parts[place]


def _texts(record: Any, key: str, origin: str) -> list[str]:
    """Return a list of texts of a record, without white space around them."""
    values = record.get(key) if isinstance(record, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        keys = ", ".join(map(str, record)) if isinstance(record, dict) else "none, since it is no object"
        raise DataError(f"{origin} has no list of texts under {key!r}; its keys: {keys}")
    return [value.strip() for value in values]
