"""Files to evaluate on in place of a split: no line is left out, so that the score is that of the whole files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from etude.data.corpora.holdout import digest
from etude.data.directions.wanted_directions import DIRECTION
from etude.data.readers.sources import Dropped, Row, aligned_lines, content_sha256
from etude.errors import DataError

REPLACED = "had bytes that are not UTF-8 text; broken ones were replaced by U+FFFD"


class EvaluationFiles:
    """A file of sources and one or more files of references; line n of each belongs to line n of the others.

    Args:
        source: File of sources, `.gz` or not.
        references: Files of reference outputs.
        direction: Direction of all lines, for data of several; None: they have none.

    Attributes:
        dropped: Lines that were changed, by reason.
    """

    FIELDS_AS_TEXT = ("references",)

    def __init__(self, source: str, references: list[str], direction: str | None = None) -> None:
        self.direction = direction
        self.directions = () if direction is None else (direction,)
        self.paths = [Path(path).expanduser() for path in (source, *references)]
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content, and of the direction."""
        named = [] if self.direction is None else [self.direction]
        return digest("EvaluatedFiles 1", *map(content_sha256, self.paths), *named)

    def splits(self) -> tuple[str, ...]:
        """Return the only split."""
        return ("test",)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield every line with the fields `source`, `target` (the first reference) and `references` (a list in JSON).

        Bytes that are not UTF-8 are replaced and their lines counted, as in `etude predict`.

        Raises:
            DataError: If a file is missing or broken, has no line of UTF-8 text, or they have different numbers of lines.
        """
        readable = [False] * len(self.paths)
        for number, lines in enumerate(aligned_lines(self.paths), 1):
            texts = [line.decode("utf-8", "replace").strip() for line in lines]
            broken = ["\ufffd" in text or "\0" in text for text in texts]
            if any(broken):
                self.dropped.drop(REPLACED, f"{self.paths[broken.index(True)].name}:{number}")
            readable = [before or not bad for before, bad in zip(readable, broken, strict=True)]
            source, *references = texts
            fields = {"source": source, "target": references[0], "references": json.dumps(references)}
            if self.direction is not None:
                fields[DIRECTION] = self.direction
            yield Row(fields, f"{self.paths[0].name}:{number}")
        if not all(readable):
            raise DataError(f"{self.paths[readable.index(False)]} is not UTF-8 text: not one of its lines can be read")
