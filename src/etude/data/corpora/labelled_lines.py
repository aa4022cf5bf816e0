"""Files with a label, a space and a text on each line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped, Row, is_text, read_lines


class LabelledLines(SplitFiles):
    """A label, a space and a text on each line, as in SST (Socher et al. 2013) and TREC (Li and Roth 2002).

    Args:
        train: Training file.
        val: Validation file; None: there is none.
        test: Test file; None: there is none.
        root: Folder of the files; None: not known yet.
        val_share: As in `SplitFiles`.
        test_share: As in `SplitFiles`.
        encoding: Encoding of the files.
        until: Text at which a label is cut: with `:`, TREC's `NUM:date` is `NUM`; None: labels are whole.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str | None = ".",
        val_share: float | None = None,
        test_share: float | None = None,
        encoding: Literal["utf-8", "latin-1"] = "utf-8",
        until: str | None = None,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, val_share, test_share)
        self.encoding = encoding
        self.until = until

    def fingerprint(self) -> str:
        """Return a hash of all files' content and of the settings."""
        return digest("LabelledLines 1", self.encoding, self.until, *self.settings)

    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield rows with the fields `text` and `label`.

        Raises:
            DataError: If the file is missing, broken or empty.
        """
        path = self.path(split)
        for number, line in enumerate(read_lines(path), 1):
            label, _, text = line.decode(self.encoding, "surrogateescape").strip().partition(" ")
            row = Row({"text": text.strip(), "label": label.partition(self.until)[0] if self.until else label}, "")
            reason = None if all(row.fields.values()) else "empty"
            reason = reason if all(map(is_text, row.fields.values())) else "not UTF-8 text"
            if reason:
                dropped.drop(reason, f"{path.name}:{number}")
            else:
                yield row._replace(origin=f"{path.name}:{number}")
