"""Base of corpora with a file for each split, whose val and test may be held out of the training file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from etude.data.corpora.holdout import split_of
from etude.data.readers.sources import Dropped, Row, content_sha256, plain_or_gz
from etude.errors import ConfigurationError, DataError

SPLITS = ("train", "val", "test")


class SplitFiles(ABC):
    """The rows of a file for each split. Rows of train are held out by their first field alone.

    Args:
        root: Folder that the files are relative to; None: not known yet.
        files: Split -> file, `.gz` or not; None: the split has no file.
        val_share: Share of train that is held out as val, if val has no file.
        test_share: Share of train that is held out as test, if test has no file.

    Attributes:
        dropped: Rows left out, by reason.

    Raises:
        ConfigurationError: If a split has both a file and a share, or nothing would be left to train on.
    """

    def __init__(
        self,
        root: str | None,
        files: Mapping[str, str | None],
        val_share: float | None = None,
        test_share: float | None = None,
    ) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.files = {split: name for split in SPLITS if (name := files.get(split)) is not None}
        shares = {"val": val_share, "test": test_share}
        self.held_out = {split: share for split, share in shares.items() if share is not None}
        self.dropped = Dropped()
        for split in self.held_out.keys() & self.files.keys():
            raise ConfigurationError(
                f"data.{split}_share={self.held_out[split]} and data.{split}={self.files[split]} are both given; "
                f"write data.{split}=null or data.{split}_share=null"
            )
        if sum(self.held_out.values()) >= 1:
            raise ConfigurationError(
                f"data.val_share and data.test_share are {sum(self.held_out.values()):g} together; write less than 1"
            )

    @property
    def settings(self) -> list[str]:
        """The files' and shares' part of the fingerprint: a hash of each file, and each held-out share."""
        contents = [f"{split} {content_sha256(self.path(split))}" for split in self.files]
        return [*contents, *(f"{split} {share}" for split, share in self.held_out.items())]

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have a file, or a share of train."""
        return tuple(split for split in SPLITS if split in self.files or split in self.held_out)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split. A row of train that cannot be read is counted there, and in no held-out split.

        Raises:
            DataError: If no folder is given, or a file is missing, broken, or has no usable row.
        """
        shared = split not in self.files or split == "train"
        dropped = self.dropped if split in self.files else Dropped()
        for row in self.read("train" if shared else split, dropped):
            if not shared or split_of(next(iter(row.fields.values())), self.held_out) == split:
                yield row

    @abstractmethod
    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield the rows of a split's file.

        Args:
            split: A split that has a file.
            dropped: Counter of the rows that are left out.
        """

    def path(self, split: str) -> Path:
        """Return the path of a split's file, or of that file with `.gz` after its name if only that exists.

        Raises:
            DataError: If no folder is given.
        """
        if self.root is None:
            names = ", ".join(dict.fromkeys(self.files.values()))
            raise DataError(f"the files are not downloaded by etude; give data.root=FOLDER with {names}")
        return plain_or_gz(self.root / Path(self.files[split]).expanduser())
