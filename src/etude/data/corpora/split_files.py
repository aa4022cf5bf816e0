"""Corpora of a file for each split, where val and test may be held out of the training file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from etude.data.corpora.holdout import split_of
from etude.data.readers.sources import Dropped, Row, content_sha256
from etude.errors import ConfigurationError, DataError

SPLITS = ("train", "val", "test")


class SplitFiles(ABC):
    """Rows of a file for each split. What is held out of train is chosen by the first field of each row alone.

    Args:
        root: Folder that the files' names begin in; None: it is still to be given.
        files: Split -> file, `.gz` or not; None: no file of its own.
        val_share: Share of train that is held out as val, where val has no file.
        test_share: Share of train that is held out as test, where test has no file.

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
        """What belongs to the fingerprint: a hash of each file, and the shares that are held out."""
        contents = [f"{split} {content_sha256(self.path(split))}" for split in self.files]
        return [*contents, *(f"{split} {share}" for split, share in self.held_out.items())]

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have a file, or a share of train."""
        return tuple(split for split in SPLITS if split in self.files or split in self.held_out)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split; one that cannot be read in train is counted there alone.

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
            split: One that has a file.
            dropped: Where rows that are left out are counted.
        """

    def path(self, split: str) -> Path:
        """Return a split's file; where there is none, the one with `.gz` behind its name.

        Raises:
            DataError: If no folder is given.
        """
        if self.root is None:
            names = ", ".join(dict.fromkeys(self.files.values()))
            raise DataError(f"the files are not downloaded by etude; give data.root=FOLDER with {names}")
        path = self.root / Path(self.files[split]).expanduser()
        packed = path.with_name(f"{path.name}.gz")
        return packed if packed.is_file() and not path.exists() else path
