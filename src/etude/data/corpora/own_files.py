"""One's own files: aligned lines, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SPLITS, SplitFiles
from etude.data.readers.sources import Dropped, Row, aligned_lines, content_sha256, text_of
from etude.data.readers.tables import read_rows
from etude.errors import ConfigurationError, DataError


class ParallelFiles:
    """Two files of aligned lines for each split: line n of one is the translation of line n of the other.

    Args:
        root: Their folder.
        source: Ending of the files to translate from, such as `en`.
        target: Ending of the files to translate into.
        splits: Split -> file name before the ending (`{train: train}` reads `train.en` or `train.en.gz`); null: none.

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

    def _path(self, split: str, ending: str) -> Path:
        name = f"{self.stems[split]}.{ending}"
        found = next((self.root / file for file in (name, f"{name}.gz") if (self.root / file).is_file()), None)
        if found is None:
            beside = sorted(path.name for path in self.root.iterdir())[:12] if self.root.is_dir() else []
            raise DataError(
                f"no {name} or {name}.gz in {self.root} (it has: {', '.join(beside) or 'nothing'}); "
                f"name the files as data.corpus.splits.{split}=NAME, or null for no {split} split"
            )
        return found


class Tables(SplitFiles):
    """A table for each split: TSV, CSV, JSON lines, Parquet, or a folder that `datasets` saved.

    Args:
        train: Path of the training table.
        val: Path of the validation table, or None.
        test: Path of the test table, or None.
        columns: Field -> column, such as `{text: sentence, label: polarity}`; positions from 0 if a TSV or CSV file has
            no line of names. A field of no column (null) is left out.
        root: Folder that the paths begin in; None: it is still to be given.
        val_share: As in `SplitFiles`.
        test_share: As in `SplitFiles`.
        names: The columns' names, for TSV and CSV files that have no line of names.
        lists: Field -> separator, for fields of several values (see `read_rows`).

    Raises:
        ConfigurationError: If a column is not among the given names.
    """

    def __init__(
        self,
        train: str,
        val: str | None,
        test: str | None,
        columns: Mapping[str, str | int | None],
        root: str | None = ".",
        val_share: float | None = None,
        test_share: float | None = None,
        names: list[str] | None = None,
        lists: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, val_share, test_share)
        chosen = {field: str(column) for field, column in columns.items() if column is not None}
        self.columns = chosen if names is None else {field: _place(names, column) for field, column in chosen.items()}
        self.lists = dict(lists or {})

    def fingerprint(self) -> str:
        """Return a hash of all files' content and the chosen columns."""
        return digest("Tables 1", *sorted(self.columns.items()), *self.settings, *self.lists.items())

    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield rows with the fields that `columns` names.

        Raises:
            DataError: If the file is missing or broken, lacks a column, or has no usable row.
        """
        yield from read_rows(self.path(split), self.columns, dropped, self.lists)


def _place(names: list[str], column: str) -> str:
    """Return the position of a column among names."""
    if column not in names:
        raise ConfigurationError(f"data.names has no column {column!r}; it has {', '.join(names)}")
    return str(names.index(column))
