"""Tables, one for each split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped, Row
from etude.data.readers.tables import read_rows
from etude.errors import ConfigurationError


class Tables(SplitFiles):
    """A table for each split: TSV, CSV, JSON lines, Parquet, or a folder that `datasets` saved.

    Args:
        train: Path of the training table.
        val: Path of the validation table; None: there is none.
        test: Path of the test table; None: there is none.
        columns: Field -> column, such as `{text: sentence, label: polarity}`; positions from 0 if a TSV or CSV file has
            no header. A field without a column (null) is left out.
        root: Folder that the paths are relative to; None: not known yet.
        val_share: As in `SplitFiles`.
        test_share: As in `SplitFiles`.
        names: Names of the columns, for TSV and CSV files without a header.
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
        named = {field: str(column) for field, column in columns.items() if column is not None}
        self.columns = named if names is None else {field: _position(names, column) for field, column in named.items()}
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


def _position(names: list[str], column: str) -> str:
    """Return the position of a column among the names."""
    if column not in names:
        raise ConfigurationError(f"data.names has no column {column!r}; it has {', '.join(names)}")
    return str(names.index(column))
