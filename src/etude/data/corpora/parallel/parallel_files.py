"""Files of aligned lines, one for each language and split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SPLITS
from etude.data.readers.sources import Dropped, Row, aligned_lines, content_sha256, text_of
from etude.errors import DataError


class ParallelFiles:
    """Two files of aligned lines for each split: line n of one is the translation of line n of the other.

    Args:
        root: Folder of the files.
        source: Suffix of the files to translate from, such as `en`.
        target: Suffix of the files to translate into.
        splits: Split -> file name before the suffix (`{train: train}` reads `train.en` or `train.en.gz`); null: none.

    Attributes:
        dropped: Rows left out, by reason.
    """

    def __init__(self, root: str, source: str, target: str, splits: Mapping[str, str | None]) -> None:
        self.root = Path(root).expanduser()
        self.source = source
        self.target = target
        self.stems = {split: stem for split in SPLITS if (stem := splits.get(split))}
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content."""
        contents = (content_sha256(path) for split in self.stems for path in self._paths(split))
        return digest("ParallelFiles 1", *self.stems, *contents)

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have files."""
        return tuple(self.stems)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield pairs with the fields `source` and `target`.

        Raises:
            DataError: If a file is missing or broken, or the two have different numbers of lines.
        """
        paths = self._paths(split)
        for number, (left, right) in enumerate(aligned_lines(paths), 1):
            row, origin = (text_of(left), text_of(right)), f"{paths[0].name}:{number}"
            if row[0] is None or row[1] is None:
                self.dropped.drop("not UTF-8 text", origin)
            elif not row[0] or not row[1]:
                self.dropped.drop("empty", origin)
            else:
                yield Row({"source": row[0], "target": row[1]}, origin)

    def _paths(self, split: str) -> tuple[Path, Path]:
        return self._path(split, self.source), self._path(split, self.target)

    def _path(self, split: str, suffix: str) -> Path:
        name = f"{self.stems[split]}.{suffix}"
        path = next((self.root / file for file in (name, f"{name}.gz") if (self.root / file).is_file()), None)
        if path is None:
            beside = sorted(path.name for path in self.root.iterdir())[:12] if self.root.is_dir() else []
            raise DataError(
                f"no {name} or {name}.gz in {self.root} (it has: {', '.join(beside) or 'nothing'}); "
                f"name the files as data.corpus.splits.{split}=NAME, or null for no {split} split"
            )
        return path
