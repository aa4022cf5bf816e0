"""Documents with one or more summaries each, as JSON lines: SciTLDR, and files of the same form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SPLITS
from etude.data.readers.sources import Dropped, Row, content_sha256, is_text, plain_or_gz, read_lines
from etude.errors import DataError


class Summaries:
    """A file of JSON lines (also .gz) for each split; a line has a document and its summaries.

    A document is a text, or a list of sentences, which are joined by spaces. Summaries are a text or a list of texts: in
    training each is an example of its own; in val and test all are references of one example.

    Args:
        root: Folder of the files; None: not known yet.
        splits: Split -> file name (`train.jsonl` reads `train.jsonl` or `train.jsonl.gz`); null: none.
        source: Key of the document.
        target: Key of the summary, or of the summaries.

    Attributes:
        dropped: Rows left out, by reason.
    """

    FIELDS_AS_TEXT = ("references",)

    def __init__(
        self, root: str | None, splits: Mapping[str, str | None], source: str = "source", target: str = "target"
    ) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.names = {split: name for split in SPLITS if (name := splits.get(split))}
        self.source = source
        self.target = target
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content and the chosen keys."""
        contents = (f"{split} {content_sha256(self._path(split))}" for split in self.names)
        return digest("Summaries 1", self.source, self.target, *contents)

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have a file."""
        return tuple(self.names)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield rows with the fields `source`, `target` and `references` (a JSON list of texts).

        Raises:
            DataError: If the file is missing or broken, lacks a key, or has no usable row.
        """
        path, usable = self._path(split), 0
        for number, line in enumerate(read_lines(path), 1):
            origin = f"{path.name}:{number}"
            document, summaries = self._texts(line, origin)
            if not summaries:
                continue
            usable += 1
            for group in [[summary] for summary in summaries] if split == "train" else [summaries]:
                yield Row({"source": document, "target": group[0], "references": json.dumps(group)}, origin)
        if usable == 0:
            raise DataError(f"{path} has no usable row; dropped: {self.dropped}")

    def _path(self, split: str) -> Path:
        if self.root is None:
            raise DataError(
                f"the files of summaries are not downloaded by etude; give data.root=FOLDER with "
                f"{', '.join(self.names.values())} (SciTLDR's: github.com/allenai/scitldr, Apache-2.0)"
            )
        return plain_or_gz(self.root / self.names[split])

    def _texts(self, line: bytes, origin: str) -> tuple[str, list[str]]:
        """Return the document and the summaries of a line; none, counted as dropped, if it has not both."""
        try:
            values = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            return self._refused("not a JSON object", origin)
        for key in (self.source, self.target):
            if key not in values:
                raise DataError(f"{origin} has no key {key!r}; its keys are: {', '.join(values)}")
        sentences, summaries = _list_of_texts(values[self.source]), _list_of_texts(values[self.target])
        if sentences is None or summaries is None:
            return self._refused("not text", origin)
        if not sentences or not summaries:
            return self._refused("empty", origin)
        return " ".join(sentences), summaries

    def _refused(self, reason: str, origin: str) -> tuple[str, list[str]]:
        self.dropped.drop(reason, origin)
        return "", []


def _list_of_texts(value: Any) -> list[str] | None:
    """Return the texts of a value that are not empty; None if it is neither a text nor a list of texts."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and is_text(text) for text in texts):
        return None
    return [text.strip() for text in texts if text.strip()]
