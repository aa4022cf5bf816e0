"""Files of aligned lines in several languages, read in several directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from etude.data.corpora.holdout import digest
from etude.data.corpora.parallel.parallel_files import ParallelFiles
from etude.data.directions.wanted_directions import DIRECTION, sides_of
from etude.data.readers.sources import Dropped, Row


class DirectionFiles:
    """A file of lines for each language and split, whose lines n belong together, read as pairs in several directions.

    Args:
        root: Folder of the files.
        pairs: Directions by the suffixes of the files: `en-de` reads `train.en` as sources and `train.de` as targets.
        splits: Split -> file name before the suffix, as in `ParallelFiles`.

    Attributes:
        dropped: Rows left out, by reason.

    Raises:
        ConfigurationError: If one of the pairs is none.
    """

    def __init__(self, root: str, pairs: Sequence[str], splits: Mapping[str, str | None]) -> None:
        self.directions = {name: ParallelFiles(root, *sides_of(name), splits) for name in pairs}
        self.dropped = Dropped()
        for files in self.directions.values():
            files.dropped = self.dropped

    def fingerprint(self) -> str:
        """Return a hash of all files' content, and of the directions.

        Raises:
            DataError: If a file is missing.
        """
        return digest("DirectionFiles 1", *(f"{name} {one.fingerprint()}" for name, one in self.directions.items()))

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have files."""
        return next(iter(self.directions.values())).splits()

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the pairs of one direction after the other, with the fields `source`, `target` and `direction`.

        Raises:
            DataError: If a file is missing or broken, or two have different numbers of lines.
        """
        for name, files in self.directions.items():
            for row in files.rows(split):
                yield Row({**row.fields, DIRECTION: name}, row.origin)
