"""Tatoeba: everyday sentences, many with several translations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from etude.data.corpora.holdout import digest, split_of
from etude.data.corpora.split_files import SPLITS
from etude.data.readers.sources import Dropped, Row, content_sha256, plain_or_gz
from etude.data.readers.tables import read_rows
from etude.errors import DataError

FILES = {"train": "deu-eng.train.tsv", "val": "deu-eng.train.tsv", "test": "deu-eng.valid.tsv"}
HELD_OUT = {"val": 0.006}


class Tatoeba:
    """English-German sentence pairs of Tatoeba as packaged by manythings.org.

    Test is the file `deu-eng.valid.tsv`; val is about eight hundred sentences of `deu-eng.train.tsv`, held out by English
    sentence. In training each pair is an example; in val and test all translations of an English sentence are references
    of one example, so that no sentence is scored twice, and no right translation is held against another.

    Args:
        root: Folder of the two files (also .gz); None: not known yet.

    Attributes:
        dropped: Rows left out, by reason.
    """

    FIELDS_AS_TEXT = ("references",)

    def __init__(self, root: str | None) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of both files' content."""
        return digest("Tatoeba 2", HELD_OUT, *(content_sha256(self._path(split)) for split in ("train", "test")))

    def splits(self) -> tuple[str, ...]:
        """Return all three splits."""
        return SPLITS

    def rows(self, split: str) -> Iterator[Row]:
        """Yield rows with the fields `source` (English), `target` (German) and `references` (a JSON list of texts).

        Raises:
            DataError: If no folder is given, or a file is missing or broken.
        """
        pairs = self._pairs(split)
        if split == "train":
            for row in pairs:
                yield Row({**row.fields, "references": json.dumps([row.fields["target"]])}, row.origin)
            return
        groups: dict[str, list[Row]] = {}
        for row in pairs:
            groups.setdefault(row.fields["source"], []).append(row)
        for group in groups.values():
            targets = list(dict.fromkeys(row.fields["target"] for row in group))
            yield Row({**group[0].fields, "references": json.dumps(targets)}, group[0].origin)

    def _pairs(self, split: str) -> Iterator[Row]:
        for row in read_rows(self._path(split), {"source": "0", "target": "1"}, self.dropped):
            if split == "test" or split_of(row.fields["source"], HELD_OUT) == split:
                yield row

    def _path(self, split: str) -> Path:
        if self.root is None:
            raise DataError(
                "the files of Tatoeba are not downloaded by etude; give data.root=FOLDER with deu-eng.train.tsv and "
                "deu-eng.valid.tsv: English, a tab, German on each line (pairs: www.manythings.org/anki, CC BY 2.0)"
            )
        return plain_or_gz(self.root / FILES[split])
